"""The operators as torch sees them, and what they refuse before anything is written."""

import pytest
import torch
from steps import ADAM_DEFAULTS, SGD_DEFAULTS, make_lists

from nvrm_fast.reference import DISTRIBUTIONS
from nvrm_fast.reference.arguments import AdamStep, ChangeCoat, SgdStep

BACKENDS = ("reference", "native")


def arguments(rule, dtype=torch.float32, masters=False):
    options = {**SGD_DEFAULTS, "is_first": [False] * 2} if rule == "sgd" else {**ADAM_DEFAULTS, "amsgrad": True}
    lists = make_lists([(130,), (3, 5)], rule, dtype, masters, options)
    noise = dict(
        scales=[0.1] * 2, seed=1, distribution=0, coat_scales=[0.1] * 2, coat_seed=1, coat_distribution=0,
        keep_noise=False,
    )  # fmt: skip
    last = dict(grad_scale=torch.ones(1), found_inf=torch.zeros(()), run_lengths=[10, 0], run_strides=[20, 0])
    return {**lists, **noise, **options, **last}


def call(rule, named, backend):
    from nvrm_fast.ops import step as ops

    getattr(ops, f"{rule}_step_")(*named.values(), backend=backend)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_of_steps(rule, dtype, masters):
    operator = getattr(torch.ops.nvrm_fast, f"{rule}_step_").default
    torch.library.opcheck(operator, tuple(arguments(rule, dtype, masters).values()))


def test_opcheck_of_noise_and_coat():
    torch.library.opcheck(torch.ops.nvrm_fast.fill_noise_.default, (torch.zeros(300), 1, 2, 3, 0, 0.5, 7))
    named = arguments("sgd")
    coat = [named[k] for k in ("params", "masters", "steps", "streams", "offsets", "scales", "seed", "distribution")]
    coat += [named[k] for k in ("coat_scales", "coat_seed", "coat_distribution")]
    torch.library.opcheck(torch.ops.nvrm_fast.change_coat_.default, tuple(coat))


@pytest.mark.parametrize(
    "name, arguments", [("sgd_step_", SgdStep), ("adam_step_", AdamStep), ("change_coat_", ChangeCoat)]
)
def test_the_reference_takes_the_schemas_arguments(name, arguments):
    schema = getattr(torch.ops.nvrm_fast, name).default._schema
    assert tuple(a.name for a in schema.arguments) == arguments._fields
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    assert defaults == arguments._field_defaults


def sparse(x):
    return x.to_sparse()


# Argument, its bad value made from the good one, error, message.
BAD = [
    ("grads", lambda v: v[:1], ValueError, "grads needs one value for each of params: 2, got 1"),
    ("grads", lambda v: [v[0], sparse(v[1])], TypeError, r"grads\[1\] must be dense; sparse"),
    ("grads", lambda v: [v[0], v[1].double()], TypeError, r"grads\[1\] must be"),
    ("grads", lambda v: [v[0], v[1].flatten()], ValueError, r"grads\[1\] must have the parameter's shape"),
    ("params", lambda v: [v[0], v[1].bool()], TypeError, r"params\[1\] must be"),
    ("params", lambda v: [x.to(torch.complex64) for x in v], TypeError, r"params\[0\] must be float32"),
    ("params", lambda v: [v[0], v[1][:1, :1].expand(3, 5)], ValueError, r"params\[1\] has elements that share memory"),
    ("exp_avgs", lambda v: v + v, ValueError, "exp_avgs needs one value"),
    ("exp_avg_sqs", lambda v: [v[0].half(), v[1]], TypeError, r"exp_avg_sqs\[0\] must be"),
    ("max_exp_avg_sqs", lambda v: [v[0], v[1].t()], ValueError, r"max_exp_avg_sqs\[1\] must have"),
    ("masters", lambda v: [torch.zeros(130)], ValueError, "masters must be empty or hold"),
    ("steps", lambda v: [v[0], v[1].float()], TypeError, r"steps\[1\] must be an int64"),
    ("steps", lambda v: [v[0], v[1].expand(2)], TypeError, r"steps\[1\] must be an int64"),
    ("streams", lambda v: [1, 2**32], ValueError, r"stream must be in \[0, 2\^32\)"),
    ("streams", lambda v: [1], ValueError, "streams needs one value"),
    ("offsets", lambda v: [0, -1], ValueError, r"offsets\[1\] must not be negative"),
    ("scales", lambda v: [], ValueError, "scales needs one value"),
    ("coat_scales", lambda v: [1.0], ValueError, "coat_scales needs one value"),
    ("distribution", lambda v: len(DISTRIBUTIONS), ValueError, "distribution must be a code in"),
    ("coat_distribution", lambda v: -1, ValueError, "coat_distribution must be a code in"),
    ("beta1", lambda v: 1.0, ValueError, r"beta1 must be in \[0, 1\), got 1"),
    ("beta2", lambda v: float("nan"), ValueError, r"beta2 must be in \[0, 1\), got nan"),
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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name, spoil, error, message", BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_bad_arguments_leave_everything_as_it_was(backend, name, spoil, error, message):
    named = arguments("adam")
    named[name] = spoil(named[name])
    tensors = [x for v in named.values() if isinstance(v, list) for x in v if isinstance(x, torch.Tensor)]
    dense = [x for x in tensors if x.layout == torch.strided]
    before = [x.clone() for x in dense]
    with pytest.raises(error, match=message):
        call("adam", named, backend)
    assert all(torch.equal(a, b) for a, b in zip(before, dense))


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_first_needs_its_length(backend):
    named = arguments("sgd")
    named["is_first"] = [True]
    with pytest.raises(ValueError, match="is_first needs one value for each of params"):
        call("sgd", named, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_noise_targets(backend):
    from nvrm_fast.ops.step import fill_noise_

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
    for name in ("fill_noise_", "sgd_step_", "adam_step_", "change_coat_"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"nvrm_fast::{name}", "CompositeExplicitAutograd")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"nvrm_fast::{name}", "CPU")
