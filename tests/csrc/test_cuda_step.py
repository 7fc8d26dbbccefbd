"""The native CUDA kernels on a GPU: the same bits as on the CPU, for every rule, storage and noise.

Without a GPU everything here is skipped, and launch_emulation.cpp stands in for it.
"""

import itertools

import pytest
import torch
from steps import RULES, arguments_of, make_lists, place, with_noise
from torch import Tensor

import nvrm_fast  # noqa: F401  (defines the operators)
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.contract.record import DISTRIBUTION, SCALE, SEED, STEP
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


OPS = torch.ops.nvrm_fast
DISTRIBUTION_CODES = range(len(DISTRIBUTIONS))


def on_device(value, device):
    if isinstance(value, list):
        return [on_device(x, device) for x in value]
    return place(value, device) if isinstance(value, Tensor) else value


def step(lists, name, device, **others):
    """One step on copies on `device`, by the native kernels; every tensor as it was left, on the CPU."""
    arguments = [on_device(x, device) for x in arguments_of(name, lists, **others)]
    OPS.step_(*arguments)
    left = dict(zip(arguments_of(name, lists, **others)._fields, arguments))
    return {k: [x.cpu() for x in left[k]] for k in ("params", "states", "masters", "steps", "records")}


def assert_equal(expected, found, what):
    for name, values in expected.items():
        for i, (a, b) in enumerate(zip(values, found[name], strict=True)):
            assert torch.equal(a, b), (name, i, what)


def compare(lists, name, what=None, **others):
    """CUDA against the CPU; returns what CUDA left."""
    left = step(lists, name, "cuda", **others)
    assert_equal(step(lists, name, "cpu", **others), left, what)
    return left


def differing(lists):
    """The lists, with records that tell each parameter of other noise, and some of none."""
    lists = with_noise(lists)
    for i, (words, counter) in enumerate(zip(lists["records"], lists["steps"])):
        words[SEED] += i % 2
        words[DISTRIBUTION] = i % len(DISTRIBUTIONS)
        words[STEP] = counter - i % 3
        if i % 4 == 3:
            words[SCALE] = 0
    return lists


@pytest.mark.parametrize("dtype, masters", STORAGES)
@pytest.mark.parametrize("name", RULES)
def test_equals_the_cpu(name, dtype, masters):
    lists = make_lists(SIZES, name, dtype, masters)
    for distribution, keep_noise in itertools.product(DISTRIBUTION_CODES, (False, True)):
        noisy = with_noise(lists, 0.05, (distribution + 1) % 3)
        what = (distribution, keep_noise)
        compare(noisy, name, what, distribution=distribution, keep_noise=keep_noise)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("name", RULES)
def test_what_is_read_on_the_device(name, masters):
    """Records that differ in one list, scales and hyper-parameters in tensors, denoise_every."""
    lists = differing(make_lists(SIZES, name, torch.float32, masters))
    scales = [torch.tensor(0.01 * (i % 3)) for i in range(len(SIZES))]
    hyper = arguments_of(name, lists).hyper
    for denoise_every in (0, 2, 3):
        compare(lists, name, denoise_every, denoise_every=denoise_every)
        tensors = dict(scale_tensors=scales, hyper_tensor=torch.tensor(hyper, dtype=torch.float64))
        left = compare(
            lists, name, denoise_every, denoise_every=denoise_every, scale=9.0, hyper=[0.0] * len(hyper), **tensors
        )
        given = compare(lists, name, denoise_every, denoise_every=denoise_every, scale_tensors=scales)
        assert_equal(given, left, "hyper_tensor")


@pytest.mark.parametrize("name", ["momentum", "amsgrad"])
@pytest.mark.parametrize("offset", [1, 3, 4, 128, 2**36 + 5])
def test_shards_and_strides(name, offset):
    sizes = [(12, 5, 6, 7), (9, 130)]
    for lay_out in (lambda x: x, lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)):
        lists = make_lists(sizes, name, torch.float32, False, lay_out, offsets=[offset] * len(sizes))
        compare(with_noise(lists), name, offset)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_shards_of_columns(masters):
    lists = make_lists([(400, 33), (9, 130)], "adamw", torch.float32, masters, offsets=[5, 2**33 + 77])
    compare(with_noise(lists), "adamw", run_lengths=[33, 130], run_strides=[77, 300])


@pytest.mark.parametrize("dtype, masters", STORAGES)
@pytest.mark.parametrize("name", ["nesterov first decay", "amsgrad"])
def test_gradient_scaling(name, dtype, masters):
    lists = with_noise(make_lists(SIZES, name, dtype, masters))
    for found_inf in (torch.zeros(1), torch.ones(1)):
        left = compare(lists, name, found_inf, grad_scale=torch.tensor([3.0]), found_inf=found_inf)
    assert_equal({k: lists[k] for k in left}, left, "skipped")


def test_more_tensors_than_one_launch_takes():
    lists = differing(make_lists([(i % 70 + 1,) for i in range(900)], "adamw", torch.float32, False))
    compare(lists, "adamw", "900 tensors")
    shared = torch.tensor(5)
    left = compare({**lists, "steps": [shared] * 900}, "adamw", "one counter")
    assert all(int(words[STEP]) == 6 for words in left["records"])


@pytest.mark.parametrize("dtype, masters", STORAGES)
def test_reperturb(dtype, masters):
    lists = differing(make_lists(SIZES, "sgd", dtype, masters))
    targets = [words.clone() for words in lists["records"]]
    for i, words in enumerate(targets):
        words[SEED] = 7
        words[SCALE] = 0 if i % 4 > 1 else words[SCALE]
    left = []
    for device in ("cpu", "cuda"):
        arguments = [lists["params"], lists["masters"], lists["records"], targets, lists["offsets"]]
        arguments = [on_device(x, device) for x in arguments]
        OPS.reperturb_(*arguments)
        left.append(dict(params=[x.cpu() for x in arguments[0]], records=[x.cpu() for x in arguments[2]]))
    assert_equal(*left, (dtype, masters))


@pytest.mark.parametrize("offset", [0, 3, 4, 2**36 + 5])
@pytest.mark.parametrize("distribution", DISTRIBUTION_CODES)
def test_noise(distribution, offset):
    for count in (1, 127, 4099, 1_000_003):
        a, b = torch.empty(count), torch.empty(count, device="cuda")
        for out in (a, b):
            OPS.fill_noise_(out, -3, 7, 11, distribution, 0.5, offset)
        assert torch.equal(a, b.cpu())


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_a_captured_graph_reads_and_writes_the_records(masters):
    """Every replay takes off what is on, also what a call between two replays put on, and draws fresh noise."""
    name, sizes = "momentum first", [(4099,), (33,), (128, 7)]
    lists = differing(make_lists(sizes, name, torch.float32, masters))
    hyper = torch.tensor(arguments_of(name, lists).hyper, dtype=torch.float64)
    device = {k: on_device(v, "cuda") for k, v in lists.items()}
    host = {k: on_device(v, "cpu") for k, v in lists.items()}
    hypers = {"cuda": hyper.cuda(), "cpu": hyper}

    def run(lists, where):
        OPS.step_(*arguments_of(name, lists, hyper_tensor=hypers[where], denoise_every=3))

    def clean(lists):
        targets = [words.clone() for words in lists["records"]]
        for words in targets:
            words[SCALE].zero_()
        OPS.reperturb_(lists["params"], lists["masters"], lists["records"], targets, lists["offsets"])

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(device, "cuda")
    for call in range(6):
        graph.replay()
        run(host, "cpu")
        if call == 2:
            clean(device)
            clean(host)
        for tensor in hypers.values():
            tensor[0] *= 0.5  # the learning rate
    torch.cuda.synchronize()
    for key in ("params", "states", "masters", "steps", "records"):
        assert_equal({key: host[key]}, {key: [x.cpu() for x in device[key]]}, "replays")


def test_another_stream_is_respected():
    stream = torch.cuda.Stream()
    out = torch.zeros(1 << 20, device="cuda")
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        out.fill_(7)
        OPS.fill_noise_(out, 0, 0, 0, 0, 1.0, 0)
    stream.synchronize()
    expected = torch.empty(1 << 20)
    OPS.fill_noise_(expected, 0, 0, 0, 0, 1.0, 0)
    assert torch.equal(out.cpu(), expected)


def test_steps_and_records_must_be_on_the_device():
    lists = make_lists([(3,)], "sgd", torch.float32, False)
    device = {k: on_device(v, "cuda") for k, v in lists.items()}
    with pytest.raises(TypeError, match=r"steps\[0\] must be an int64 tensor with one element on cuda"):
        OPS.step_(*arguments_of("sgd", {**device, "steps": lists["steps"]}))
    with pytest.raises(ValueError, match=r"records\[0\] must be on cuda"):
        OPS.step_(*arguments_of("sgd", {**device, "records": lists["records"]}))
