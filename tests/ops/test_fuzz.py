"""The operators under arguments that nobody thought of: fast kernels leave the reference's bits, or refuse alike and
write nothing. Hypothesis draws the same examples in every run (derandomize)."""

import pytest
import torch
from bad_arguments import arguments, reperturb_arguments
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native import each_instruction_set
from steps import RULES, assert_same, copy_of, make_lists, run

from nvrm_fast.contract.arguments import ReperturbArguments, StepArguments
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.ops.step import fill_noise_, reperturb_, step_

FIXED = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), database=None
)

shapes = st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), min_size=1, max_size=5)
scales = st.sampled_from([0.0, 0.05, -0.3, 1e-30, 1e-60, 1e30])
hypers = st.sampled_from([0.0, 1e-8, 0.1, 0.9, 0.999])
distributions = st.sampled_from(list(DISTRIBUTIONS.values()))


@st.composite
def options_of(draw, name):
    """Any value for any hyper-parameter of a rule."""
    return {
        hyper.name: draw(st.booleans() if hyper.is_flag else hypers) for hyper in RULES[name][0].hyper
    }  # fmt: skip


def permuted(x, order):
    """The same values with other strides."""
    dims = sorted(range(x.dim()), key=lambda d: hash((order, d)))
    return x.permute(dims).contiguous().permute([dims.index(d) for d in range(x.dim())])


@st.composite
def steps(draw):
    name = draw(st.sampled_from(list(RULES)))
    options = draw(options_of(name))
    sizes = draw(shapes)
    order = draw(st.integers(0, 3))
    lists = make_lists(
        sizes, name, draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])),
        draw(st.booleans()), lay_out=(lambda x: permuted(x, order)) if order else (lambda x: x),
        step=draw(st.sampled_from([0, 1, 77, 2**31, 2**32 - 1, 2**40])),
        offsets=[draw(st.sampled_from([0, 1, 127, 128, 2**31 - 5, 2**40 + 3])) for _ in sizes],
        seed=draw(st.integers(0, 9)),
    )  # fmt: skip
    last = {}
    if draw(st.booleans()):
        last["grad_scale"] = torch.tensor(draw(st.sampled_from([1.0, 3.0, 65536.0])))
    if draw(st.booleans()):
        last["found_inf"] = torch.tensor([draw(st.sampled_from([0.0, 0.0, 1.0]))])
    if not order and draw(st.booleans()):
        last["run_lengths"] = [size[-1] if size and size[-1] else 0 for size in sizes]
        last["run_strides"] = [length + draw(st.integers(0, 300)) for length in last["run_lengths"]]
    noise = dict(
        scale=draw(scales), old_scale=draw(scales), distribution=draw(distributions),
        old_distribution=draw(distributions), keep_noise=draw(st.booleans()),
        denoise_every=draw(st.sampled_from([0, 0, 1, 2, 78])), old_cycle=draw(st.booleans()),
    )  # fmt: skip
    noise["cycle"] = not noise["keep_noise"] and draw(st.booleans())
    return lists, name, {**options, **noise, **last}


def same_but_nan(a, b, what):
    """Overflow gives infinities and NaN on both sides; a NaN's own bits are not part of the contract."""
    mend = lambda left: {k: [x.nan_to_num(7.0, 8.0, 9.0) for x in v] for k, v in left.items()}  # noqa: E731
    assert_same(mend(a), mend(b), what)


@FIXED
@given(steps())
def test_fast_kernels_leave_the_references_bits(case):
    lists, name, options = case
    reference = run(lists, name, backend="reference", **options)
    for instruction_set in each_instruction_set():
        same_but_nan(run(lists, name, backend="native", **options), reference, (instruction_set, case[1:]))


hostile_integers = st.sampled_from([-(2**63), -1, 0, 1, 5, 2**31, 2**32, 2**62, 2**63 - 1])
hostile_reals = st.sampled_from([0.0, -0.0, 1.0, float("nan"), float("inf"), -float("inf"), 1e300, 5e-324])
hostile_tensors = st.sampled_from([
    torch.zeros(3), torch.zeros(3).half(), torch.zeros(3, 1), torch.zeros(0), torch.zeros(1).expand(3),
    torch.zeros(6)[::2], torch.zeros(3, dtype=torch.complex64), torch.tensor(1), torch.zeros(3).to_sparse(),
])  # fmt: skip
HOSTILE = {
    "int[]": st.lists(hostile_integers, max_size=3), "float[]": st.lists(hostile_reals, max_size=3),
    "int": hostile_integers, "float": hostile_reals, "bool": st.booleans(),
    "bool[]": st.lists(st.booleans(), max_size=3), "Tensor[]": st.lists(hostile_tensors, max_size=3),
    "Tensor?": st.none() | hostile_tensors, "Tensor": hostile_tensors,
}  # fmt: skip


def kind_of(argument):
    kind = str(argument.type)
    for long, short in (("List[int]", "int[]"), ("List[float]", "float[]"), ("List[bool]", "bool[]")):
        kind = kind.replace(long, short)
    return kind.replace("List[Tensor]", "Tensor[]").replace("Optional[Tensor]", "Tensor?")


def flat_tensors(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list):
            yield from (x for x in value if isinstance(x, torch.Tensor))


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("name", ["step_", "reperturb_", "fill_noise_"])
def test_hostile_arguments_are_refused_and_nothing_is_written(name, backend):
    """One or two arguments of a good call are replaced by anything of their type: an error that Python knows, and every
    tensor as it was; or the call goes through."""

    schema = getattr(torch.ops.nvrm_fast, name).default._schema
    refused = 0

    @FIXED
    @given(st.data())
    def attack(data):
        nonlocal refused
        if name == "fill_noise_":
            good = dict(
                self=torch.zeros(3), seed=1, stream=2, step=3, distribution=0, scale=0.5, offset=0
            )  # fmt: skip
        elif name == "reperturb_":
            good = reperturb_arguments()._asdict()
        else:
            good = arguments(data.draw(st.sampled_from(["nesterov", "amsgrad"])))._asdict()
        for argument in data.draw(st.lists(st.sampled_from(schema.arguments), min_size=1, max_size=2)):
            good[argument.name] = data.draw(HOSTILE[kind_of(argument)])
        values = {k: [copy_if(x) for x in v] if isinstance(v, list) else copy_if(v) for k, v in good.items()}
        before = [x.clone() for x in flat_tensors(values.values())]
        try:
            CALLS[name](values, backend)
        except (ValueError, TypeError, RuntimeError, IndexError):
            refused += 1
            for a, b in zip(before, flat_tensors(values.values())):
                assert torch.equal(a.to_dense(), b.to_dense())

    attack()
    assert refused > 5


CALLS = {
    "step_": lambda values, backend: step_(StepArguments(**values), backend=backend),
    "reperturb_": lambda values, backend: reperturb_(ReperturbArguments(**values), backend=backend),
    "fill_noise_": lambda values, backend: fill_noise_(*values.values(), backend=backend),
}


def copy_if(x):
    """A copy with the same strides, so that examples do not write into each other's tensors."""
    if not isinstance(x, torch.Tensor) or x.layout != torch.strided:
        return x
    return x[:1].clone().expand(x.shape) if 0 in x.stride() else copy_of(x)
