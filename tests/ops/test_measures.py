"""Relative noise and measures: the native kernels leave the reference's bits, whatever the threads."""

import pytest
import torch
from covering import covering
from measuring import extreme, run_measure, run_measured, run_relative_reperturb, same_bits, with_measures
from native import each_instruction_set
from step_checks import ELEMENTS, columns_of, misalign, spread, transpose
from steps import RULES, make_lists

from nvrm_fast.contract.measures import ABSMAX, CLEAN, ON, RMS
from nvrm_fast.ops import registry
from nvrm_fast.ops.step import finish_sums

pytestmark = [
    pytest.mark.skipif(registry._native is None, reason="native kernels not built"),
    pytest.mark.filterwarnings("ignore:nvrm_fast computes in plain torch"),
]

#: Nothing, a vector, a number, long rows, rows of every place in a superblock, rows of one element, filters.
SIZES = [(0,), (129,), (), (3, 700), (40, 37), (150, 1), (6, 3, 3, 3)]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BOTH = pytest.mark.parametrize("measure", [RMS, ABSMAX], ids=["rms", "absmax"])
PER = pytest.mark.parametrize("per", ["tensor", "row"])
MASTERS = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


def compare(lists, name, measure, **others):
    same_bits(*(run_measured(lists, name, backend, measure, **others) for backend in ("native", "reference")))


@BOTH
@PER
@MASTERS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps(measure, per, masters, dtype):
    for name in ("sgd", "adam decay maximize") if dtype != torch.float32 else RULES:
        lists = make_lists(SIZES, name, dtype, masters)
        compare(with_measures(lists, per), name, measure, distribution=1, old_distribution=2)


@BOTH
@PER
def test_instruction_sets(measure, per):
    for _ in each_instruction_set():
        for dtype, masters in ((torch.float32, False), (torch.bfloat16, True)):
            lists = with_measures(make_lists(SIZES, "momentum", dtype, masters), per, sums=dtype == torch.float32)
            compare(lists, "momentum", measure, weight_decay=0.1)
            same_bits(*(run_measure(lists, backend, measure) for backend in ("native", "reference")))


@BOTH
@PER
def test_what_is_off_and_on(measure, per):
    """Absolute noise off and relative on, none off, none on, steps that leave the weights clean, own scales."""
    lists = with_measures(make_lists(SIZES, "sgd", torch.float32, False), per)
    compare(lists, "sgd", measure, was_relative=False)
    compare(lists, "sgd", measure, old_scale=0.0)
    compare(lists, "sgd", measure, scale=0.0)
    compare(lists, "sgd", measure, denoise_every=2)
    compare(lists, "sgd", measure, scale_tensors=[torch.tensor(0.1 * i) for i in range(len(SIZES))])
    compare(lists, "sgd", measure, grad_scale=torch.tensor(3.0))
    compare(lists, "sgd", 0)  # back to absolute noise: the measures stay
    for found in (0.0, 1.0):
        compare(lists, "sgd", measure, found_inf=torch.tensor(found))
    for old in (False, True):
        for new in (False, True):
            backends = ("native", "reference")
            same_bits(*(run_relative_reperturb(lists, backend, old, new) for backend in backends))


@pytest.mark.parametrize(
    "step, dtype, measure, per, masters",
    covering((4, 5, 6, 7), (torch.float32, torch.bfloat16), (RMS, ABSMAX), ("tensor", "row"), (False, True)),
    ids=str,
)
def test_cycles(step, dtype, measure, per, masters):
    """Another turn of one draw comes off by the measures that it was put on with."""
    lists = with_measures(make_lists(SIZES, "adam", dtype, masters, step=step), per)
    for was_relative in (False, True):
        compare(lists, "adam", measure, cycle=True, old_cycle=True, was_relative=was_relative)
    compare(lists, "adam", 0, cycle=True, old_cycle=True)
    same_bits(*(run_measure(lists, backend, measure, old_cycle=True) for backend in ("native", "reference")))


@BOTH
@PER
@pytest.mark.parametrize("lay_out", [misalign, transpose, spread])
def test_layouts(measure, per, lay_out):
    lists = with_measures(make_lists([(129,), *SIZES[3:]], "momentum", torch.float32, False, lay_out), per)
    compare(lists, "momentum", measure)
    same_bits(*(run_measure(lists, backend, measure) for backend in ("native", "reference")))


@BOTH
@PER
@MASTERS
def test_shards_sum_up_to_the_whole(measure, per, masters):
    """Columns and rows of a matrix: noise as in the whole, and sums that join to the whole's measures."""
    shape = (23, 60)
    whole = with_measures(make_lists([shape], "momentum", torch.float32, masters), per)
    expected = run_measured(whole, "momentum", "reference", measure)
    sums, parts = [], []
    for begin, end in ((0, 13), (13, 37), (37, 60)):
        lists, runs = columns_of(whole, begin, end)
        lists = {**with_measures(lists, per, [shape], sums=True), "measures": whole["measures"]}
        left = [run_measured(lists, "momentum", backend, measure, **runs) for backend in ("native", "reference")]
        same_bits(*left)
        same_bits(*(run_measure(lists, backend, measure, **runs) for backend in ("native", "reference")))
        sums.append(left[0]["sums"][0])
        parts.append(left[0]["params"][0])
        assert torch.equal(left[0]["measures"][0][ON], whole["measures"][0][CLEAN])
    assert torch.equal(torch.cat(parts, 1), expected["params"][0])
    joined = torch.stack(sums).sum(0) if measure == RMS else torch.stack(sums).amax(0)
    rows = joined.shape[0]
    assert torch.equal(finish_sums(joined, measure, 23 * 60 // rows), expected["measures"][0][CLEAN])
    some = {**whole, **{key: [x[5:11].contiguous() for x in whole[key]] for key in ELEMENTS}, "offsets": [300]}
    some = {**with_measures(some, per, [shape], sums=True), "measures": whole["measures"]}
    left = [run_measured(some, "momentum", backend, measure) for backend in ("native", "reference")]
    same_bits(*left)
    assert torch.equal(left[0]["params"][0], expected["params"][0][5:11])


@BOTH
@PER
def test_threads(measure, per):
    """Half a million elements: one thread and four leave the same bits, of steps and of measuring."""
    lists = with_measures(make_lists([(50, 10007), (3000, 7)], "sgd", torch.float32, False), per)
    left = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            left.append((run_measured(lists, "sgd", "native", measure), run_measure(lists, "native", measure)))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*left):
        same_bits(a, b)


@BOTH
@PER
def test_extreme_weights(measure, per):
    """Weights that are broken, huge, tiny and 0; measures that are broken, infinite and 0."""
    lists = extreme(make_lists([(8, 40), (5, 300)], "sgd", torch.float32, True), per)
    for scale in (0.05, 100.0):
        for old_scale in (0.0, 0.1, 50.0):
            compare(lists, "sgd", measure, scale=scale, old_scale=old_scale)
    same_bits(*(run_measure(lists, backend, measure) for backend in ("native", "reference")))


@PER
def test_large_weights(per):
    """About where the fast sums of squares end, at 2**20 in a lane of float64, and beyond."""
    for _ in each_instruction_set():
        for size in (90.0, 180.0, 255.0, 257.0, 400.0, 1500.0):
            lists = with_measures(make_lists([(6, 700), (3, 128), (50, 9)], "sgd", torch.float32, True), per)
            for x in lists["masters"]:
                x.copy_(torch.where(x > 0, size, -size) + x)
            same_bits(*(run_measure(lists, backend, RMS) for backend in ("native", "reference")))


@BOTH
def test_only_clean(measure):
    lists = with_measures(make_lists([(8, 40), (5, 300)], "sgd", torch.float32, False), "row", sums=True)
    for only_clean in (False, True):
        for old_scale in (0.0, 0.1):
            left = [run_measure(lists, b, measure, old_scale=old_scale, only_clean=only_clean) for b in
                    ("native", "reference")]  # fmt: skip
            same_bits(*left)
            is_left_out = only_clean and old_scale != 0
            assert torch.equal(left[0]["sums"][0], lists["sums"][0]) == is_left_out
