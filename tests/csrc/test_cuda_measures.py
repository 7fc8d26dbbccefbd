"""Relative noise and measures of the native CUDA kernels on a GPU: the same bits as on the CPU.

Without a GPU everything here is skipped; measure_emulation.cpp and tests/ptx stand in for it.
"""

import pytest
import torch
from measuring import extreme, run_measure, run_measured, run_relative_reperturb, same_bits, with_measures
from step_checks import columns_of, misalign, spread, transpose
from steps import RULES, make_lists

from nvrm_fast.contract.measures import ABSMAX, RMS
from nvrm_fast.ops import registry

pytestmark = [
    pytest.mark.skipif(not registry.native_serves_cuda(), reason="CUDA kernels not built"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

#: Nothing, a vector, a number, rows of all lengths, and one so long that a CTA lies in one row.
SIZES = [(0,), (129,), (), (3, 700), (40, 37), (150, 1), (6, 3, 3, 3), (70, 5003), (3, 70001)]
STORAGES = [
    *((dtype, masters) for dtype in (torch.float32, torch.bfloat16, torch.float16) for masters in (False, True)),
    (torch.float64, False),
]
BOTH = pytest.mark.parametrize("measure", [RMS, ABSMAX], ids=["rms", "absmax"])
PER = pytest.mark.parametrize("per", ["tensor", "row"])


def compare(run, *args, **others):
    same_bits(*(run(*args, device=device, **others) for device in ("cuda", "cpu")))


@BOTH
@PER
@pytest.mark.parametrize("dtype, masters", STORAGES)
def test_steps_and_measuring(measure, per, dtype, masters):
    for name in RULES:
        lists = with_measures(make_lists(SIZES, name, dtype, masters), per, sums=name == "momentum")
        compare(run_measured, lists, name, "native", measure, distribution=1, old_distribution=2)
    compare(run_measure, lists, "native", measure)


@BOTH
@PER
def test_what_is_off_and_on(measure, per):
    lists = with_measures(make_lists(SIZES, "sgd", torch.float32, False), per)
    every = [dict(was_relative=False), dict(old_scale=0.0), dict(scale=0.0), dict(denoise_every=2)]
    every.append(dict(scale_tensors=[torch.tensor(0.1 * i) for i in range(len(SIZES))]))
    every += [dict(grad_scale=torch.tensor(3.0), found_inf=torch.tensor(found)) for found in (0.0, 1.0)]
    for others in every:
        compare(run_measured, lists, "sgd", "native", measure, **others)
    compare(run_measured, lists, "sgd", "native", 0)
    for old in (False, True):
        for new in (False, True):
            compare(run_relative_reperturb, lists, "native", old, new)


@PER
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_cycles(per, masters):
    """Another turn of one draw comes off by the measures that it was put on with."""
    for step in (5, 6, 7):
        lists = with_measures(make_lists(SIZES, "adam", torch.float32, masters, step=step), per)
        for was_relative in (False, True):
            compare(run_measured, lists, "adam", "native", RMS, cycle=True, old_cycle=True, was_relative=was_relative)


@BOTH
@PER
@pytest.mark.parametrize("lay_out", [misalign, transpose, spread])
def test_layouts(measure, per, lay_out):
    lists = with_measures(make_lists([(129,), *SIZES[3:]], "momentum", torch.float32, False, lay_out), per)
    compare(run_measured, lists, "momentum", "native", measure)
    compare(run_measure, lists, "native", measure)


@BOTH
@PER
def test_shards_in_runs(measure, per):
    shape = (23, 6000)
    whole = with_measures(make_lists([shape], "momentum", torch.float32, False), per)
    for begin, end in ((0, 1300), (1300, 6000)):
        lists, runs = columns_of(whole, begin, end)
        lists = {**with_measures(lists, per, [shape], sums=True), "measures": whole["measures"]}
        compare(run_measured, lists, "momentum", "native", measure, **runs)
        compare(run_measure, lists, "native", measure, **runs)


@BOTH
@PER
def test_extreme_weights(measure, per):
    lists = extreme(make_lists([(8, 40), (5, 300)], "sgd", torch.float32, True), per)
    for scale in (0.05, 100.0):
        compare(run_measured, lists, "sgd", "native", measure, scale=scale, old_scale=0.1)
    for only_clean in (False, True):
        compare(run_measure, lists, "native", measure, only_clean=only_clean)


@BOTH
@PER
def test_large_tensors_and_many(measure, per):
    """CTAs of many rounds, more tensors than a launch takes; the same bits every time."""
    lists = with_measures(make_lists([(7000, 5003)], "sgd", torch.float32, False), per)
    compare(run_measured, lists, "sgd", "native", measure)
    first, second = (run_measured(lists, "sgd", "native", measure, device="cuda") for _ in range(2))
    same_bits(first, second)
    lists = with_measures(make_lists([(i % 7 + 1, i % 50 + 1) for i in range(900)], "sgd", torch.float32, False), per)
    compare(run_measured, lists, "sgd", "native", measure)
