"""The operators as torch sees them, and what they refuse before anything is written."""

import pytest
import torch
from bad_arguments import (
    BAD,
    BAD_MEASURES,
    BAD_TARGETS,
    arguments,
    check_refused,
    measure_arguments,
    measuring_arguments,
    reperturb_arguments,
)  # fmt: skip

from nvrm_fast.contract.arguments import MeasureArguments, ReperturbArguments, StepArguments
from nvrm_fast.contract.measures import RMS
from nvrm_fast.ops import registry
from nvrm_fast.ops.step import fill_noise_, measure_, reperturb_, step_

BACKENDS = ("reference", "native")
#: Those that can measure weights.
MEASURING = [name for name in BACKENDS if registry.why_missing("measure_", name, "cpu") is None]


@pytest.mark.parametrize("name", ["nesterov", "amsgrad"])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_of_steps(name, dtype, masters):
    torch.library.opcheck(torch.ops.nvrm_fast.step_.default, tuple(arguments(name, dtype, masters)))


def test_opcheck_of_noise():
    torch.library.opcheck(torch.ops.nvrm_fast.fill_noise_.default, (torch.zeros(300), 1, 2, 3, 0, 0.5, 7))
    torch.library.opcheck(torch.ops.nvrm_fast.reperturb_.default, tuple(reperturb_arguments()))
    torch.library.opcheck(torch.ops.nvrm_fast.measure_.default, tuple(measure_arguments()))


@pytest.mark.parametrize(
    "name, arguments", [("step_", StepArguments), ("reperturb_", ReperturbArguments), ("measure_", MeasureArguments)]
)
def test_schemas_have_the_arguments(name, arguments):
    """torch reads out of the schema what the record of arguments says."""
    schema = getattr(torch.ops.nvrm_fast, name).default._schema
    assert tuple(a.name for a in schema.arguments) == arguments._fields
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    # Its schemas have no default for lists of tensors.
    has_none = {a.name for a in schema.arguments if isinstance(a.type, torch.ListType) and "Tensor" in str(a.type)}
    assert defaults == {key: value for key, value in arguments._field_defaults.items() if key not in has_none}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name, spoil, error, message", BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_bad_arguments_leave_everything_as_it_was(backend, name, spoil, error, message):
    check_refused(step_, arguments(), name, spoil, error, message, backend)


def test_records_on_another_device():
    """Of the reference; torch's dispatcher takes a list with a tensor of the meta device elsewhere."""
    given = arguments()
    given = given._replace(records=[given.records[0], given.records[1].to("meta")])
    with pytest.raises(ValueError, match=r"records\[1\] must be on cpu like params\[0\], got meta"):
        step_(given, backend="reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name, spoil, error, message", BAD_TARGETS, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD_TARGETS)]
)
def test_bad_targets_leave_everything_as_it_was(backend, name, spoil, error, message):
    check_refused(reperturb_, reperturb_arguments(), name, spoil, error, message, backend)


@pytest.mark.parametrize("backend", MEASURING)
@pytest.mark.parametrize(
    "name, spoil, error, message", BAD_MEASURES, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD_MEASURES)]
)
def test_bad_measures_leave_everything_as_it_was(backend, name, spoil, error, message):
    check_refused(step_, measuring_arguments(), name, spoil, error, message, backend)
    check_refused(measure_, measure_arguments(), name, spoil, error, message, backend)


@pytest.mark.parametrize("backend", MEASURING)
def test_measures_that_are_missing(backend):
    """Relative noise without its measures; a step that is to measure without any; noise that stays."""
    given = measuring_arguments()
    without = given._replace(measures=[], sums=[], row_lengths=[], measure=0)
    for bad, error in (
        (without, r"records\[0\] tells of noise whose scale is relative: measures must hold its measures"),
        (given._replace(measures=[], sums=[], row_lengths=[]), r"measures must hold|records\[0\] tells"),
        (given._replace(keep_noise=True, cycle=False), "measure must be 0 with keep_noise"),
    ):
        with pytest.raises(ValueError, match=error):
            step_(bad, backend=backend)
    with pytest.raises(ValueError, match="measure must be a code in"):
        measure_(measure_arguments()._replace(measure=0), backend=backend)
    targets = reperturb_arguments()._replace(run_lengths=[], run_strides=[])
    for words in targets.targets:
        words[0] |= 1 << 32
    with pytest.raises(ValueError, match=r"targets\[0\] tells of noise whose scale is relative"):
        reperturb_(targets, backend=backend)


def test_a_measure_only_of_the_clean():
    """`only_clean` leaves parameters that carry noise, their measures and their sums."""
    given = measure_arguments()
    given.records[1].zero_()
    measure_(given._replace(sums=[], only_clean=True))
    assert torch.equal(given.measures[0], torch.ones(2, 1))
    wanted = given.params[1].double().square().mean(1).sqrt().float()
    assert torch.equal(given.measures[1][1], wanted) and given.measure == RMS


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_noise_targets(backend):
    for target, error, message in (
        (torch.zeros(4).double(), TypeError, "self must be float32"),
        (torch.zeros(4, 4).t()[1:], ValueError, "self must be contiguous"),
    ):
        with pytest.raises(error, match=message):
            fill_noise_(target, 0, 0, 0, 0, 1.0, 0, backend=backend)
    with pytest.raises(ValueError, match="offset must not be negative"):
        fill_noise_(torch.zeros(4), 0, 0, 0, 0, 1.0, -1, backend=backend)
    with pytest.raises(ValueError, match="distribution must be a code"):
        fill_noise_(torch.zeros(4), 0, 0, 0, 9, 1.0, 0, backend=backend)


def test_default_kernel_is_the_reference():
    """Every operator has a kernel for devices that have none of their own."""
    for name in ("fill_noise_", "step_", "reperturb_"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"nvrm_fast::{name}", "CompositeExplicitAutograd")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"nvrm_fast::{name}", "CPU")
