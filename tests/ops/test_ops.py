"""The operators as torch sees them, and what they refuse before anything is written."""

import pytest
import torch
from bad_arguments import BAD, BAD_TARGETS, arguments, check_refused, reperturb_arguments

from nvrm_fast.contract.arguments import ReperturbArguments, StepArguments
from nvrm_fast.ops.step import fill_noise_, reperturb_, step_

BACKENDS = ("reference", "native")


@pytest.mark.parametrize("name", ["nesterov", "amsgrad"])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_of_steps(name, dtype, masters):
    torch.library.opcheck(torch.ops.nvrm_fast.step_.default, tuple(arguments(name, dtype, masters)))


def test_opcheck_of_noise():
    torch.library.opcheck(torch.ops.nvrm_fast.fill_noise_.default, (torch.zeros(300), 1, 2, 3, 0, 0.5, 7))
    torch.library.opcheck(torch.ops.nvrm_fast.reperturb_.default, tuple(reperturb_arguments()))


@pytest.mark.parametrize("name, arguments", [("step_", StepArguments), ("reperturb_", ReperturbArguments)])
def test_schemas_have_the_arguments(name, arguments):
    """torch reads out of the schema what the record of arguments says."""
    schema = getattr(torch.ops.nvrm_fast, name).default._schema
    assert tuple(a.name for a in schema.arguments) == arguments._fields
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    assert defaults == arguments._field_defaults


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
