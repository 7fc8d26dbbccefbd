"""A few Triton steps on a GPU, against the reference on the CPU, bit for bit. Skipped without one: test_interpreted.py
and test_compiled.py stand in."""

import pytest
import torch
from steps import full_options, make_lists
from torch import Tensor

from nvrm_fast import NVRMAdamW, ops
from nvrm_fast.ops.registry import why_missing

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
reason = why_missing("triton", torch.device("cuda"))
if reason is not None:
    pytest.skip(f"Triton does not serve: {reason}", allow_module_level=True)

SIZES = [(4099,), (33, 65), (257,), (1,), (0,), (70001,)]


def place(x: Tensor, device: str) -> Tensor:
    """A copy on the device with the same strides."""
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=device).copy_(x)


def step(lists, rule, hyper, device, backend, distribution=0, keep_noise=False, **last):
    """One step on copies on `device`; every tensor as it was left, on the CPU."""
    copies = {}
    for name, values in lists.items():
        tensors = bool(values) and isinstance(values[0], Tensor)
        copies[name] = [place(x, device) for x in values] if tensors else list(values)
    n = len(copies["params"])
    hyper = {**hyper, "is_first": [hyper["is_first"]] * n} if rule == "sgd" else dict(hyper)
    noise = [[0.05] * n, 11, distribution, [0.03] * n, -12, 2, keep_noise]
    last = {**dict(grad_scale=None, found_inf=None, run_lengths=[], run_strides=[]), **last}
    last = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in last.items()}
    getattr(ops, f"{rule}_step_")(*copies.values(), *noise, *hyper.values(), *last.values(), backend=backend)
    return {k: [x.cpu() for x in v] for k, v in copies.items() if v and isinstance(v[0], Tensor)}


def compare(lists, *arguments, **options):
    expected = step(lists, *arguments, "cpu", "reference", **options)
    found = step(lists, *arguments, "cuda", "triton", **options)
    for name, values in expected.items():
        for i, (a, b) in enumerate(zip(values, found[name])):
            assert torch.equal(a, b), (name, i, options)


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
    rule, hyper = full_options(name)
    lists = make_lists(SIZES, rule, dtype, masters, hyper, offsets=[0, 100, 5, 7, 0, 2**33 + 77])
    for distribution in range(3):
        compare(lists, rule, hyper, distribution=distribution)


def test_gradient_scaling():
    rule, hyper = full_options("adamw")
    lists = make_lists(SIZES, rule, torch.float32, False, hyper)
    for found_inf in (torch.zeros(1), torch.ones(1)):
        compare(lists, rule, hyper, grad_scale=torch.tensor([3.0]), found_inf=found_inf)


def test_noise():
    expected, found = torch.empty(100_003), torch.empty(100_003, device="cuda")
    for distribution in range(3):
        ops.fill_noise_(expected, -3, 7, 11, distribution, 0.5, 2**36 + 5, backend="reference")
        ops.fill_noise_(found, -3, 7, 11, distribution, 0.5, 2**36 + 5, backend="triton")
        assert torch.equal(expected, found.cpu()), distribution


def test_a_captured_step_is_a_step():
    left = []
    for captured in (False, True):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(size).cuda()) for size in ((300,), (33, 65))]
        optimizer = NVRMAdamW(params, variability=0.05, backend="triton")
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
