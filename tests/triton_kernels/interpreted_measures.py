"""Relative noise and measures of the Triton kernels, in the interpreter: the reference's bits. Started by
test_interpreted.py."""

import pytest
import torch
from bad_arguments import BAD_MEASURES, check_refused, measure_arguments, measuring_arguments
from covering import covering
from interpreter import rounding_of_bfloat16  # noqa: F401
from measuring import extreme, run_measure, run_measured, run_relative_reperturb, same_bits, with_measures
from step_checks import columns_of, misalign, spread, transpose
from steps import make_lists

from nvrm_fast.contract.measures import ABSMAX, RMS
from nvrm_fast.ops.step import measure_, step_

#: Nothing, a vector, a number, rows longer than a tile, of 16 elements times 2, of any length, of one element.
SIZES = [(0,), (129,), (), (3, 1100), (40, 32), (9, 37), (50, 1)]
BACKENDS = ("triton", "reference")
BOTH = pytest.mark.parametrize("measure", [RMS, ABSMAX], ids=["rms", "absmax"])
PARTS = ("tensor", "row")
PER = pytest.mark.parametrize("per", PARTS)


def compare(lists, name, measure, **others):
    same_bits(*(run_measured(lists, name, backend, measure, **others) for backend in BACKENDS))


@pytest.mark.parametrize(
    "dtype, measure, per, masters",
    covering((torch.float32, torch.float64, torch.bfloat16, torch.float16), (RMS, ABSMAX), PARTS, (False, True)),
    ids=str,
)
def test_steps_and_measuring(dtype, measure, per, masters):
    lists = with_measures(make_lists(SIZES, "momentum", dtype, masters), per, sums=masters)
    compare(lists, "momentum", measure, distribution=1, old_distribution=2)
    same_bits(*(run_measure(lists, backend, measure) for backend in BACKENDS))


@PER
def test_what_is_off_and_on(per):
    sizes = [(0,), (129,), (9, 37)]
    lists = with_measures(make_lists(sizes, "sgd", torch.float32, False), per)
    compare(lists, "sgd", RMS, was_relative=False)
    compare(lists, "sgd", RMS, old_scale=0.0)
    compare(lists, "sgd", RMS, scale=0.0)
    compare(lists, "sgd", RMS, denoise_every=2)
    compare(lists, "sgd", RMS, scale_tensors=[torch.tensor(0.1 * i) for i in range(len(sizes))])
    compare(lists, "sgd", 0)
    for found in (0.0, 1.0):
        compare(lists, "sgd", RMS, found_inf=torch.tensor(found), grad_scale=torch.tensor(3.0))
    for old in (False, True):
        for new in (False, True):
            same_bits(*(run_relative_reperturb(lists, backend, old, new) for backend in BACKENDS))


@pytest.mark.parametrize(
    "step, per, masters, measure, was_relative",
    covering((5, 6, 7), PARTS, (False, True), (RMS, 0), (False, True)),
    ids=str,
)
def test_cycles(step, per, masters, measure, was_relative):
    """Another turn of one draw comes off by the measures that it was put on with."""
    lists = with_measures(make_lists(SIZES, "adam", torch.float32, masters, step=step), per)
    compare(lists, "adam", measure, cycle=True, old_cycle=True, was_relative=was_relative)
    if measure and was_relative:
        same_bits(*(run_measure(lists, backend, RMS, old_cycle=True) for backend in BACKENDS))


@PER
@pytest.mark.parametrize("lay_out", [misalign, transpose, spread])
def test_layouts(per, lay_out):
    lists = with_measures(make_lists([(129,), *SIZES[3:]], "momentum", torch.float32, False, lay_out), per)
    compare(lists, "momentum", RMS)
    same_bits(*(run_measure(lists, backend, RMS) for backend in BACKENDS))


@BOTH
@PER
def test_shards_in_runs(measure, per):
    shape = (7, 60)
    whole = with_measures(make_lists([shape], "momentum", torch.float32, False), per)
    for begin, end in ((0, 13), (13, 60)):
        lists, runs = columns_of(whole, begin, end)
        lists = {**with_measures(lists, per, [shape], sums=True), "measures": whole["measures"]}
        compare(lists, "momentum", measure, **runs)
        same_bits(*(run_measure(lists, backend, measure, **runs) for backend in BACKENDS))


@BOTH
@PER
def test_extreme_weights(measure, per):
    lists = extreme(make_lists([(8, 40), (5, 300)], "sgd", torch.float32, True), per)
    for scale in (0.05, 100.0):
        compare(lists, "sgd", measure, scale=scale, old_scale=0.1)
    same_bits(*(run_measure(lists, backend, measure) for backend in BACKENDS))


def test_only_clean():
    lists = with_measures(make_lists([(8, 40), (5, 300)], "sgd", torch.float32, False), "row", sums=True)
    for only_clean in (False, True):
        for old_scale in (0.0, 0.1):
            same_bits(*(
                run_measure(lists, backend, RMS, old_scale=old_scale, only_clean=only_clean) for backend in BACKENDS
            ))  # fmt: skip


@pytest.mark.parametrize(
    "name, spoil, error, message", BAD_MEASURES, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD_MEASURES)]
)
def test_bad_measures_leave_everything_as_it_was(name, spoil, error, message):
    check_refused(step_, measuring_arguments(), name, spoil, error, message, "triton")
    check_refused(measure_, measure_arguments(), name, spoil, error, message, "triton")
