"""A few Triton steps on a GPU, against the reference on the CPU, bit for bit. Skipped without one: test_interpreted.py
and test_compiled.py stand in."""

import pytest
import torch
from steps import arguments_of, make_lists, place, with_noise
from torch import Tensor

from nvrm_fast import NVRMAdamW
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.ops.registry import why_missing
from nvrm_fast.ops.step import fill_noise_, step_

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
reason = why_missing("step_", "triton", "cuda")
if reason is not None:
    pytest.skip(f"Triton does not serve: {reason}", allow_module_level=True)

SIZES = [(4099,), (33, 65), (257,), (1,), (0,), (70001,)]


def step(lists, name, device, backend, **others):
    """One step on copies on `device`; every tensor as it was left, on the CPU."""
    copies = {
        key: [place(x, device) if isinstance(x, Tensor) else x for x in values]
        for key, values in with_noise(lists, 0.03, DISTRIBUTIONS["laplace"]).items()
    }
    others = {key: x.to(device) if isinstance(x, Tensor) else x for key, x in others.items()}
    step_(arguments_of(name, copies, **others), backend=backend)
    return {key: [x.cpu() for x in v] for key, v in copies.items() if v and isinstance(v[0], Tensor)}


def compare(lists, name, **others):
    expected = step(lists, name, "cpu", "reference", **others)
    found = step(lists, name, "cuda", "triton", **others)
    for key, values in expected.items():
        for i, (a, b) in enumerate(zip(values, found[key])):
            assert torch.equal(a, b), (key, i, others)


@pytest.mark.parametrize(
    "name, dtype, masters",
    [
        ("momentum", torch.float32, False),
        ("nesterov first decay", torch.bfloat16, True),
        ("adamw", torch.float32, False),
        ("amsgrad", torch.float16, True),
        ("adam", torch.float64, False),
    ],
)
def test_equals_the_reference(name, dtype, masters):
    lists = make_lists(SIZES, name, dtype, masters, offsets=[0, 100, 5, 7, 0, 2**33 + 77])
    for distribution in DISTRIBUTIONS.values():
        compare(lists, name, distribution=distribution)


def test_gradient_scaling():
    lists = make_lists(SIZES, "adamw", torch.float32, False)
    for found_inf in (torch.zeros(1), torch.ones(1)):
        compare(lists, "adamw", grad_scale=torch.tensor([3.0]), found_inf=found_inf)


def test_noise():
    expected, found = torch.empty(100_003), torch.empty(100_003, device="cuda")
    for distribution in DISTRIBUTIONS.values():
        fill_noise_(expected, -3, 7, 11, distribution, 0.5, 2**36 + 5, backend="reference")
        fill_noise_(found, -3, 7, 11, distribution, 0.5, 2**36 + 5, backend="triton")
        assert torch.equal(expected, found.cpu()), distribution


def test_a_captured_step_is_a_step():
    left = []
    for captured in (False, True):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(size).cuda()) for size in ((300,), (33, 65))]
        optimizer = NVRMAdamW(params, variability=0.05, backend="triton", capturable=True)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        step = optimizer.step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
        for _ in range(3):
            step()
        left.append([p.detach().clone() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*left))
