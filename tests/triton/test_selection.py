"""Which implementation serves CUDA tensors, decided without any: native if built, else Triton, else the reference."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nvrm_fast
from nvrm_fast.ops import registry as backends

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def nothing_native(monkeypatch):
    monkeypatch.setattr(backends, "native_serves_cuda", lambda: False)


def test_native_then_triton_then_reference(monkeypatch):
    monkeypatch.setattr(backends, "_why_triton_is_missing", lambda device: None)
    monkeypatch.setattr(backends, "native_serves_cuda", lambda: True)
    assert backends.choose(CUDA) == "native"
    assert backends.choose(CUDA, "triton") == "triton"
    with nvrm_fast.use_backend("triton"):
        assert backends.choose(CUDA) == "triton"
    monkeypatch.setattr(backends, "native_serves_cuda", lambda: False)
    assert backends.choose(CUDA) == "triton"
    monkeypatch.setattr(backends, "_why_triton_is_missing", lambda device: "not here")
    assert backends.choose(CUDA) == "reference"


def test_the_reason_and_the_remedy(monkeypatch, nothing_native):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backends, "_triton_error", lambda: "ModuleNotFoundError: No module named 'triton'")
    with pytest.raises(RuntimeError, match=r"'triton' cannot serve cuda: .*No module named.*pip install triton"):
        backends.choose(CUDA, "triton")
    with pytest.raises(RuntimeError, match="'triton' cannot serve cpu: Triton kernels run on GPUs"):
        backends.choose(CPU, "triton")
    with pytest.raises(RuntimeError, match="'native' cannot serve cuda: CUDA kernels .*Triton serves"):
        backends.choose(CUDA, "native")
    with pytest.raises(RuntimeError, match="'triton' cannot serve meta: there are no Triton kernels for meta"):
        backends.choose(torch.device("meta"), "triton")
    assert backends.choose(torch.device("meta")) == "reference"


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
        "from nvrm_fast.ops import registry as backends\n"
        "backends.native_serves_cuda = lambda: False\n"
        "assert backends.choose(torch.device('cuda')) == 'reference'\n"
        "assert 'pip install triton' in backends.why_missing('triton', torch.device('cuda'))\n"
        "assert nvrm_fast.noise(10, seed=1).shape == (10,)\n"
    )
