"""Which implementation serves CUDA tensors, decided without any: native if built, else Triton, else the reference."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nvrm_fast
import nvrm_fast.nn  # its operators
from nvrm_fast.ops import registry

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STEP = "step_"


@pytest.fixture(autouse=True)
def forget_choices():
    yield
    registry._fastest.cache_clear()


@pytest.fixture
def nothing_native(monkeypatch):
    monkeypatch.setattr(registry, "native_serves_cuda", lambda: False)


def test_native_then_triton_then_reference(monkeypatch):
    monkeypatch.setattr(registry, "_why_triton_is_missing", lambda device: None)
    monkeypatch.setattr(registry, "native_serves_cuda", lambda: True)
    registry._fastest.cache_clear()
    assert registry.choose(STEP, CUDA) == "native"
    assert registry.choose(STEP, CUDA, "triton") == "triton"
    with nvrm_fast.use_backend("triton"):
        assert registry.choose(STEP, CUDA) == "triton"
    monkeypatch.setattr(registry, "native_serves_cuda", lambda: False)
    registry._fastest.cache_clear()
    assert registry.choose(STEP, CUDA) == "triton"
    monkeypatch.setattr(registry, "_why_triton_is_missing", lambda device: "not here")
    registry._fastest.cache_clear()
    assert registry.choose(STEP, CUDA) == "reference"


def test_the_reason_and_the_remedy(monkeypatch, nothing_native):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(registry, "_triton_error", lambda: "ModuleNotFoundError: No module named 'triton'")
    with pytest.raises(RuntimeError, match=r"'triton' cannot serve step_ on cuda: .*No module.*pip install triton"):
        registry.choose(STEP, CUDA, "triton")
    with pytest.raises(RuntimeError, match="'triton' cannot serve step_ on cpu: Triton kernels run on GPUs"):
        registry.choose(STEP, CPU, "triton")
    with pytest.raises(RuntimeError, match="'native' cannot serve step_ on cuda: CUDA kernels .*Triton serves"):
        registry.choose(STEP, CUDA, "native")
    with pytest.raises(RuntimeError, match="there is no Triton kernel of step_ for meta tensors"):
        registry.choose(STEP, torch.device("meta"), "triton")
    assert registry.choose(STEP, torch.device("meta")) == "reference"


LAYERS = ("direction_noise", "direction_noise_backward", "stochastic_activation", "stochastic_activation_backward")


@pytest.fixture
def cuda_module(monkeypatch):
    """A native module with CUDA kernels, as far as the registry can tell, and Triton."""
    monkeypatch.setattr(registry, "_why_triton_is_missing", lambda device: None)
    monkeypatch.setattr(registry, "native_serves_cuda", lambda: True)
    registry._fastest.cache_clear()


def test_native_serves_layers_on_cuda(cuda_module):
    for name in (STEP, *LAYERS):
        assert registry.choose(name, CUDA) == "native"


def test_noise_of_layers_has_no_native_kernel_on_cuda(cuda_module):
    assert registry.choose("gaussian_like", CUDA) == "triton"
    with pytest.raises(RuntimeError, match="there is no native kernel of gaussian_like for cuda tensors"):
        registry.choose("gaussian_like", CUDA, "native")


def test_every_operator_has_a_kernel_for_cuda():
    for name in ("fill_noise_", "step_", "reperturb_"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"nvrm_fast::{name}", "CUDA")


def in_a_process(code):
    root = str(Path(nvrm_fast.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_does_not_import_triton():
    in_a_process("import nvrm_fast; assert 'nvrm_fast.triton' not in sys.modules")


def test_a_triton_that_is_missing_or_broken_is_no_obstacle():
    in_a_process(
        "sys.modules['triton'] = None\n"
        "import torch, nvrm_fast\n"
        "from nvrm_fast.ops import registry\n"
        "registry.native_serves_cuda = lambda: False\n"
        "assert registry.choose('step_', torch.device('cuda')) == 'reference'\n"
        "assert 'pip install triton' in registry.why_missing('step_', 'triton', 'cuda')\n"
        "assert nvrm_fast.noise(10, seed=1).shape == (10,)\n"
    )
