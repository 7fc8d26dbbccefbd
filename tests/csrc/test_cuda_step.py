"""The native CUDA kernels on a GPU: the same bits as on the CPU, for every rule, storage and noise.

Without a GPU everything here is skipped, and launch_emulation.cpp stands in for it.
"""

import itertools

import pytest
import torch
from steps import RULES, full_options, make_lists
from torch import Tensor

import nvrm_fast  # noqa: F401  (defines the operators)
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.ops.registry import _native

BUILT = _native is not None and _native.build_facts()["cuda"] is not None

pytestmark = [
    pytest.mark.skipif(not BUILT, reason="CUDA kernels not built"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

SIZES = [(4099,), (33, 65), (16, 3, 3, 3), (257,), (1,), (0,), (128,), (70001,)]
STORAGES = [
    *((dtype, masters) for dtype in (torch.float32, torch.bfloat16, torch.float16) for masters in (False, True)),
    (torch.float64, False),
]


def step(lists, rule, hyper, distribution, coat_distribution, keep_noise, device, **last):
    """One step on copies on `device`, by the native kernels; every tensor as it was left, on the CPU."""
    copies = {}
    for name, values in lists.items():
        tensors = bool(values) and isinstance(values[0], Tensor)
        copies[name] = [place(x, device) for x in values] if tensors else list(values)
    n = len(copies["params"])
    hyper = dict(hyper)
    if rule == "sgd":
        hyper["is_first"] = [hyper["is_first"]] * n
    noise = [[0.05] * n, 11, distribution, [0.05] * n, -12, coat_distribution, keep_noise]
    last = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in last.items()}
    getattr(torch.ops.nvrm_fast, f"{rule}_step_")(*copies.values(), *noise, *hyper.values(), **last)
    return {k: [x.cpu() for x in v] for k, v in copies.items() if v and isinstance(v[0], Tensor)}


def place(x, device):
    """A copy on the device with the same strides."""
    copy = torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=device)
    return copy.copy_(x)


def assert_equal(expected, found, what):
    for name, values in expected.items():
        for i, (a, b) in enumerate(zip(values, found[name])):
            assert torch.equal(a, b), (name, i, what)


@pytest.mark.parametrize("dtype, masters", STORAGES)
@pytest.mark.parametrize("name", RULES)
def test_equals_the_cpu(name, dtype, masters):
    rule, hyper = full_options(name)
    lists = make_lists(SIZES, rule, dtype, masters, hyper)
    for distribution, keep_noise in itertools.product(DISTRIBUTION_CODES, (False, True)):
        arguments = (lists, rule, hyper, distribution, (distribution + 1) % 3, keep_noise)
        assert_equal(step(*arguments, "cpu"), step(*arguments, "cuda"), (distribution, keep_noise))


DISTRIBUTION_CODES = range(len(DISTRIBUTIONS))


@pytest.mark.parametrize("name", ["momentum", "amsgrad"])
@pytest.mark.parametrize("offset", [1, 3, 4, 128, 2**36 + 5])
def test_shards_and_strides(name, offset):
    rule, hyper = full_options(name)
    sizes = [(12, 5, 6, 7), (9, 130)]
    for lay_out in (lambda x: x, lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)):
        lists = make_lists(sizes, rule, torch.float32, False, hyper, lay_out, offsets=[offset] * len(sizes))
        arguments = (lists, rule, hyper, 0, 0, False)
        assert_equal(step(*arguments, "cpu"), step(*arguments, "cuda"), offset)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_shards_of_columns(masters):
    rule, hyper = full_options("adamw")
    lists = make_lists([(400, 33), (9, 130)], rule, torch.float32, masters, hyper, offsets=[5, 2**33 + 77])
    arguments = (lists, rule, hyper, 0, 0, False)
    runs = dict(run_lengths=[33, 130], run_strides=[77, 300])
    assert_equal(step(*arguments, "cpu", **runs), step(*arguments, "cuda", **runs), runs)


@pytest.mark.parametrize("dtype, masters", STORAGES)
@pytest.mark.parametrize("name", ["nesterov first decay", "amsgrad"])
def test_gradient_scaling(name, dtype, masters):
    rule, hyper = full_options(name)
    lists = make_lists(SIZES, rule, dtype, masters, hyper)
    arguments = (lists, rule, hyper, 0, 0, False)
    for found_inf in (torch.zeros(1), torch.ones(1)):
        scaling = dict(grad_scale=torch.tensor([3.0]), found_inf=found_inf)
        left = step(*arguments, "cuda", **scaling)
        assert_equal(step(*arguments, "cpu", **scaling), left, found_inf)
    assert_equal({k: lists[k] for k in left}, left, "skipped")


def test_more_tensors_than_one_launch_takes():
    rule, hyper = full_options("adamw")
    lists = make_lists([(i % 70 + 1,) for i in range(900)], rule, torch.float32, False, hyper)
    arguments = (lists, rule, hyper, 0, 0, False)
    assert_equal(step(*arguments, "cpu"), step(*arguments, "cuda"), "900 tensors")


def test_the_coat_comes_off():
    params = [torch.randn(4099, device="cuda"), torch.randn(33, 65, device="cuda")]
    before = [p.clone() for p in params]
    steps = [torch.tensor(5, device="cuda") for _ in params]
    on = ([], steps, [0, 1], [0, 0], [0.05] * 2, 1, 0, [0.0] * 2, 1, 0)
    off = ([], steps, [0, 1], [0, 0], [0.0] * 2, 1, 0, [0.05] * 2, 1, 0)
    torch.ops.nvrm_fast.change_coat_(params, *on)
    assert not torch.equal(params[0], before[0]) and int(steps[0]) == 5
    torch.ops.nvrm_fast.change_coat_(params, *off)
    for p, old in zip(params, before):
        torch.testing.assert_close(p, old, rtol=0, atol=1e-6)


@pytest.mark.parametrize("offset", [0, 3, 4, 2**36 + 5])
@pytest.mark.parametrize("distribution", DISTRIBUTION_CODES)
def test_noise(distribution, offset):
    for count in (1, 127, 4099, 1_000_003):
        a, b = torch.empty(count), torch.empty(count, device="cuda")
        for out in (a, b):
            torch.ops.nvrm_fast.fill_noise_(out, -3, 7, 11, distribution, 0.5, offset)
        assert torch.equal(a, b.cpu())


def test_a_captured_graph_draws_fresh_noise():
    rule, hyper = full_options("adam")
    lists = make_lists([(4099,), (33,)], rule, torch.float32, False, hyper)
    device = {k: [x.cuda() for x in v] if v and isinstance(v[0], Tensor) else v for k, v in lists.items()}
    noise = [[0.05] * 2, 11, 0, [0.05] * 2, 11, 0, False]

    def run(lists):
        torch.ops.nvrm_fast.adam_step_(*lists.values(), *noise, *hyper.values())

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(device)
    for _ in range(4):
        graph.replay()
        run(lists)
    torch.cuda.synchronize()
    for name in ("params", "exp_avgs", "exp_avg_sqs", "steps"):
        for a, b in zip(lists[name], device[name]):
            assert torch.equal(a, b.cpu()), name


def test_another_stream_is_respected():
    stream = torch.cuda.Stream()
    out = torch.zeros(1 << 20, device="cuda")
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        out.fill_(7)
        torch.ops.nvrm_fast.fill_noise_(out, 0, 0, 0, 0, 1.0, 0)
    stream.synchronize()
    expected = torch.empty(1 << 20)
    torch.ops.nvrm_fast.fill_noise_(expected, 0, 0, 0, 0, 1.0, 0)
    assert torch.equal(out.cpu(), expected)


def test_steps_must_be_on_the_device():
    p = torch.zeros(3, device="cuda")
    arguments = ([], [torch.tensor(0)], [0], [0], [0.1], 1, 0, [0.0], 1, 0)
    with pytest.raises(TypeError, match=r"steps\[0\] must be an int64 tensor with one element on cuda"):
        torch.ops.nvrm_fast.change_coat_([p], *arguments)
