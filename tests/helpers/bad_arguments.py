"""Arguments of the operators on parameters, and what is refused among them before anything is written."""

import pytest
import torch
from steps import arguments_of, make_lists, with_noise

from nvrm_fast.contract.arguments import MeasureArguments, ReperturbArguments
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.contract.measures import RMS
from nvrm_fast.contract.record import RELATIVE, SCALE
from nvrm_fast.contract.rules import RULES


def arguments(name="amsgrad", dtype=torch.float32, masters=False):
    lists = with_noise(make_lists([(130,), (3, 5)], name, dtype, masters))
    last = dict(grad_scale=torch.ones(1), found_inf=torch.zeros(()), run_lengths=[10, 0], run_strides=[20, 0])
    return arguments_of(name, lists, scale_tensors=[torch.tensor(0.1)] * 2, cycle=True, **last)


def reperturb_arguments():
    given = arguments()
    targets = [words.clone() for words in given.records]
    return ReperturbArguments(
        given.params, given.masters, given.records, targets, given.offsets, run_lengths=[10, 0], run_strides=[20, 0]
    )


def measuring_arguments(masters=False):
    """A step with measures: of a tensor, and of three rows. Its records say that the noise is relative."""
    given = arguments(masters=masters)
    for words in given.records:
        words[SCALE] |= RELATIVE
    return given._replace(
        measures=[torch.ones(2, 1), torch.ones(2, 3)],
        sums=[torch.zeros(1, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)],
        row_lengths=[0, 5],
        measure=RMS,
        run_lengths=[],
        run_strides=[],
    )


def measure_arguments():
    given = measuring_arguments()
    return MeasureArguments(**{name: getattr(given, name) for name in MeasureArguments._fields if name != "only_clean"})


def sparse(x):
    return x.to_sparse()


def word(i, value):
    """The second record with another word."""

    def spoil(records):
        changed = records[1].clone()
        changed[i] = value
        return [records[0], changed]

    return spoil


def hyper(i, value):
    return lambda values: [*values[:i], value, *values[i + 1 :]]


RECORD = "must be an int64 tensor with 8 elements"

HYPER_TENSOR = "hyper_tensor must be None or a float64 tensor with 7 elements"

SCALE_TENSORS = "scale_tensors must be empty or hold one float32 tensor with one element for each of params"

# Argument, its bad value made from the good one, error, message.
BAD = [
    ("rule", lambda v: len(RULES), ValueError, r"rule must be a code in \[0, "),
    ("rule", lambda v: -1, ValueError, r"rule must be a code in \[0, "),
    ("grads", lambda v: v[:1], ValueError, "grads needs one value for each of params: 2, got 1"),
    ("grads", lambda v: [v[0], sparse(v[1])], TypeError, r"grads\[1\] must be dense; sparse"),
    ("grads", lambda v: [v[0], v[1].double()], TypeError, r"grads\[1\] must be"),
    ("grads", lambda v: [v[0], v[1].flatten()], ValueError, r"grads\[1\] must have the parameter's shape"),
    ("params", lambda v: [v[0], v[1].bool()], TypeError, r"params\[1\] must be"),
    ("params", lambda v: [x.to(torch.complex64) for x in v], TypeError, r"params\[0\] must be float32"),
    ("params", lambda v: [v[0], v[1][:1, :1].expand(3, 5)], ValueError, r"params\[1\] has elements that share memory"),
    ("states", lambda v: v[:5], ValueError, "states needs 3 values for each of params: 6, got 5"),
    ("states", lambda v: [*v[:2], v[2].half(), *v[3:]], TypeError, r"states\[2\] must be"),
    ("states", lambda v: [*v[:5], v[5].t()], ValueError, r"states\[5\] must have"),
    ("masters", lambda v: [torch.zeros(130)], ValueError, "masters must be empty or hold"),
    ("steps", lambda v: [v[0], v[1].float()], TypeError, r"steps\[1\] must be an int64"),
    ("steps", lambda v: [v[0], v[1].expand(2)], TypeError, r"steps\[1\] must be an int64"),
    ("records", lambda v: v[:1], ValueError, "records needs one value for each of params: 2, got 1"),
    ("records", lambda v: [v[0], v[1][:7]], TypeError, rf"records\[1\] {RECORD}"),
    ("records", lambda v: [v[0], v[1].int()], TypeError, rf"records\[1\] {RECORD}"),
    ("records", lambda v: [v[0], v[1].repeat_interleave(2)[::2]], ValueError, r"records\[1\] must be contiguous\(\)"),
    ("records", word(3, 2**32), ValueError, r"stream must be in \[0, 2\^32\)"),
    ("records", word(3, -1), ValueError, r"stream must be in \[0, 2\^32\)"),
    ("records", word(2, len(DISTRIBUTIONS)), ValueError, "distribution must be a code in"),
    ("records", word(2, -1), ValueError, "distribution must be a code in"),
    ("records", word(5, 4), ValueError, r"turn must be in \[0, 4\), got 4"),
    ("records", word(5, -1), ValueError, r"turn must be in \[0, 4\), got -1"),
    ("keep_noise", lambda v: True, ValueError, "cycle must be False with keep_noise"),
    ("hyper", lambda v: v[:3], ValueError, "hyper needs 7 values, got 3"),
    ("hyper", hyper(1, 1.0), ValueError, r"beta1 must be in \[0, 1\), got 1"),
    ("hyper", hyper(2, float("nan")), ValueError, r"beta2 must be in \[0, 1\), got nan"),
    ("hyper_tensor", lambda v: torch.zeros(6).double(), ValueError, HYPER_TENSOR),
    ("hyper_tensor", lambda v: torch.zeros(7), ValueError, HYPER_TENSOR),
    ("hyper_tensor", lambda v: torch.full((7,), 1.5).double(), ValueError, r"beta1 must be in \[0, 1\), got 1.5"),
    ("scale_tensors", lambda v: v[:1], ValueError, SCALE_TENSORS),
    ("scale_tensors", lambda v: [v[0], v[1].double()], ValueError, SCALE_TENSORS),
    ("scale_tensors", lambda v: [v[0], v[1].expand(2)], ValueError, SCALE_TENSORS),
    ("offsets", lambda v: [0, -1], ValueError, r"offsets\[1\] must not be negative"),
    ("distribution", lambda v: len(DISTRIBUTIONS), ValueError, "distribution must be a code in"),
    ("distribution", lambda v: -1, ValueError, "distribution must be a code in"),
    ("denoise_every", lambda v: -1, ValueError, "denoise_every must not be negative, got -1"),
    ("grad_scale", lambda v: torch.ones(2), ValueError, "grad_scale must be None or a float32 tensor with one"),
    ("grad_scale", lambda v: torch.ones(1).double(), ValueError, "grad_scale must be None or a float32 tensor"),
    ("found_inf", lambda v: torch.ones(3), ValueError, "found_inf must be None or a float32 tensor"),
    ("run_lengths", lambda v: [10], ValueError, "run_lengths needs one value for each of params: 2, got 1"),
    ("run_strides", lambda v: [10], ValueError, "run_strides needs one value for each of params: 2, got 1"),
    ("run_lengths", lambda v: [7, 0], ValueError, r"run_lengths\[0\] must be 0 or divide the parameter's 130 elements"),
    ("run_lengths", lambda v: [-1, 0], ValueError, r"run_lengths\[0\] must be 0 or divide"),
    ("run_strides", lambda v: [9, 0], ValueError, r"and run_strides\[0\] be at least as long; got 10 and 9"),
    ("grads", lambda v: [v[0].repeat_interleave(2)[::2], v[1]], ValueError, r"params\[0\] is a shard in runs"),
]

BAD_TARGETS = [
    ("targets", lambda v: v[:1], ValueError, "targets needs one value for each of params: 2, got 1"),
    ("targets", lambda v: [v[0], v[1][:7]], TypeError, rf"targets\[1\] {RECORD}"),
    ("targets", word(3, 2**32), ValueError, r"stream must be in \[0, 2\^32\)"),
    ("targets", word(2, len(DISTRIBUTIONS)), ValueError, "distribution must be a code in"),
    ("targets", word(5, 4), ValueError, r"turn must be in \[0, 4\), got 4"),
    *(bad for bad in BAD if bad[0] in ("params", "records", "masters", "offsets")),
]


_SUMS = r"sums\[1\] must be a contiguous int64 tensor of shape"
#: Of steps and of measuring alike.
BAD_MEASURES = [
    ("measures", lambda v: v[:1], ValueError, "measures needs one value for each of params: 2, got 1"),
    ("measures", lambda v: [v[0], v[1].double()], TypeError, r"measures\[1\] must be a float32 tensor of shape \(2, "),
    ("measures", lambda v: [v[0], v[1][0]], TypeError, r"measures\[1\] must be a float32 tensor of shape \(2, rows\)"),
    ("measures", lambda v: [v[0], torch.ones(3, 2).t()], ValueError, r"measures\[1\] must be contiguous\(\)"),
    ("measures", lambda v: [v[0], torch.ones(2, 2)], ValueError, r"params\[1\] has elements behind its 2 rows of 5"),
    ("row_lengths", lambda v: [0], ValueError, "row_lengths needs one value for each of params: 2, got 1"),
    (
        "row_lengths",
        lambda v: [0, 0],
        ValueError,
        r"row_lengths\[1\] must be 0 for one measure and positive for several",
    ),
    ("row_lengths", lambda v: [130, 5], ValueError, r"row_lengths\[0\] must be 0 for one measure and positive for"),
    ("row_lengths", lambda v: [0, -5], ValueError, r"row_lengths\[1\] must be 0 for one measure and positive for"),
    ("row_lengths", lambda v: [0, 4], ValueError, r"params\[1\] has elements behind its 3 rows of 4"),
    ("measure", lambda v: 3, ValueError, "measure must be a code in"),
    ("sums", lambda v: v[:1], ValueError, "sums needs one value for each of params: 2, got 1"),
    ("sums", lambda v: [v[0], v[1][:2]], ValueError, _SUMS),
    ("sums", lambda v: [v[0], v[1].int()], ValueError, _SUMS),
    ("params", lambda v: [v[0], v[1].bool()], TypeError, r"params\[1\] must be"),
    ("records", lambda v: v[:1], ValueError, "records needs one value for each of params: 2, got 1"),
    ("offsets", lambda v: [0, -1], ValueError, r"offsets\[1\] must not be negative"),
]


def tensors_of(values):
    found = [x for v in values if isinstance(v, list) for x in v if isinstance(x, torch.Tensor)]
    return [x for x in found if x.layout == torch.strided and x.device.type != "meta"]


def check_refused(call, given, name, spoil, error, message, backend):
    """One argument is spoiled: the call raises, and every tensor is as it was."""
    given = given._replace(**{name: spoil(getattr(given, name))})
    tensors = tensors_of(given)
    before = [x.clone() for x in tensors]
    with pytest.raises(error, match=message):
        call(given, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors))
