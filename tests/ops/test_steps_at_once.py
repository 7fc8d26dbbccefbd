"""Several native steps in one call: the operator's bits, all checks before the first write, and when it is not used."""

import pytest
import torch
from steps import RULES, arguments_of, assert_same, make_lists, run, with_noise
from torch.utils._python_dispatch import TorchDispatchMode

from nvrm_fast import NVRMSGD, use_backend
from nvrm_fast.contract.arguments import StepArguments
from nvrm_fast.ops import native, registry
from nvrm_fast.ops.step import serves_at_once, steps_

pytestmark = pytest.mark.skipif(registry._native is None, reason="native kernels not built")

SIZES = [(0,), (1,), (17,), (129,), (), (3, 5, 7)]
CPU = torch.device("cpu")


def arguments(name, lists, **others):
    lists = with_noise(lists)
    copies = {k: [x.clone() if isinstance(x, torch.Tensor) else x for x in v] for k, v in lists.items()}
    left = {k: v for k, v in copies.items() if v and isinstance(v[0], torch.Tensor)}
    return arguments_of(name, copies, **others), left


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_every_argument_arrives(masters):
    """All rules in one call, with every argument that is not a default: the reference's bits."""
    scaling = dict(grad_scale=torch.tensor([4.0]), found_inf=torch.tensor([0.0]))
    calls, lefts, expected = [], [], []
    for i, name in enumerate(RULES):
        dtype = (torch.float32, torch.float64, torch.bfloat16)[i % 3]
        runs = dict(run_lengths=[0, 1, 0, 43, 0, 0], run_strides=[0, 1, 0, 50, 0, 0]) if i % 2 else {}
        lists = make_lists(SIZES, name, dtype, masters, offsets=[0, 7, 10**12, 3, 0, 9], seed=i)
        others = dict(
            scale=0.1 + i, seed=-5 - i, distribution=i % 4, keep_noise=i % 4 == 0, denoise_every=i % 5,
            cycle=i % 4 in (1, 2), scale_tensors=[torch.tensor(0.2)] * len(SIZES) if i % 2 else [], **scaling, **runs,
        )  # fmt: skip
        if i % 3 == 0:
            others["hyper_tensor"] = torch.tensor(arguments(name, lists)[0].hyper, dtype=torch.float64) * 0.5
        call, left = arguments(name, lists, **others)
        calls.append(call)
        lefts.append(left)
        expected.append(run(lists, name, backend="reference", **others))
    steps_(calls)
    for name, left, want in zip(RULES, lefts, expected):
        assert_same(left, want, name)


def test_infinite_gradients_are_skipped():
    call, left = arguments("momentum", make_lists(SIZES, "momentum", torch.float32, False))
    before = {k: [x.clone() for x in v] for k, v in left.items()}
    steps_([call._replace(found_inf=torch.tensor([1.0]))])
    assert_same(left, before)


class Sub(torch.Tensor):
    pass


#: What is wrong with the second of two calls: the field, its value, the error.
WRONG = {
    "rule": (lambda a: a._replace(rule=99), ValueError, "rule must be a code"),
    "shape": (lambda a: a._replace(grads=[a.grads[0][:1]] * len(a.grads)), ValueError, "grads.0. must have"),
    "dtype": (lambda a: a._replace(grads=[x.double() for x in a.grads]), TypeError, "grads.0. must be Float"),
    "length": (lambda a: a._replace(steps=a.steps[1:]), ValueError, "steps needs one value"),
    "not a list": (lambda a: a._replace(params=tuple(a.params)), TypeError, "params must be a list"),
    "no tensor": (lambda a: a._replace(records=[3] * len(a.records)), TypeError, "records must hold plain tensors"),
    "subclass": (
        lambda a: a._replace(grads=[x.as_subclass(Sub) for x in a.grads]), TypeError, "grads must hold plain tensors",
    ),
    "sparse": (lambda a: a._replace(found_inf=torch.zeros(1).to_sparse()), TypeError, "found_inf must be dense"),
    "no number": (lambda a: a._replace(hyper=["0"] * len(a.hyper)), TypeError, "must be real number"),
    "too large": (lambda a: a._replace(seed=2**64), OverflowError, "too big"),
    "fields": (lambda a: tuple(a)[:-1], TypeError, f"a call has {len(StepArguments._fields)} fields"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_nothing_is_written_if_a_later_call_is_refused(what):
    break_it, error, message = WRONG[what]
    first, left = arguments("adam", make_lists([(5,), (9,)], "adam", torch.float32, False))
    second, other = arguments("momentum", make_lists([(5,), (9,)], "momentum", torch.float32, False))
    before = [{k: [x.clone() for x in v] for k, v in lists.items()} for lists in (left, other)]
    with pytest.raises(error, match=message):
        steps_([first, break_it(second)])
    assert_same(left, before[0])
    assert_same(other, before[1])


def test_a_transform_is_refused():
    call, _ = arguments("sgd", make_lists([(5,)], "sgd", torch.float32, False))

    def step(grad):
        steps_([call._replace(grads=[grad])])
        return grad

    with pytest.raises(TypeError, match="grads must hold plain tensors"):
        torch.vmap(step)(torch.ones(3, 5))


class Watcher(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_when_it_serves():
    assert serves_at_once([(CPU, None), (CPU, "native")])
    assert not serves_at_once([(CPU, None), (CPU, "reference")])
    with use_backend("reference"):
        assert not serves_at_once([(CPU, None)])
    with Watcher():
        assert not serves_at_once([(CPU, None)])


def make_optimizer(convert=lambda x: x):
    params = [torch.nn.Parameter(torch.full((4,), float(i))) for i in range(3)]
    for p in params:
        p.grad = convert(torch.ones(4))
    groups = [dict(params=params[:2]), dict(params=params[2:], lr=0.01)]
    return params, NVRMSGD(groups, lr=0.1, momentum=0.9, variability=0.1, seed=5)


def step_with(optimizer, watched):
    if not watched:
        optimizer.step()
        return
    with Watcher() as watcher:
        optimizer.step()
    assert watcher.names.count("nvrm_fast::step_") == 2


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.as_subclass(Sub)], ids=["plain", "subclass"])
def test_the_same_weights_by_the_operator(convert):
    """Two groups; by one call, by the operator for a mode that watches it, and with gradients of a subclass."""
    params, optimizer = make_optimizer()
    others, other = make_optimizer(convert)
    for i in range(4):
        optimizer.step()
        step_with(other, watched=i >= 2)
    assert all(torch.equal(p, q) for p, q in zip(params, others))
    assert all(
        torch.equal(optimizer.state[p]["perturbation"], other.state[q]["perturbation"]) for p, q in zip(params, others)
    )


def test_the_profiler_sees_every_step():
    _, optimizer = make_optimizer()
    optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert sum(event.count for event in profile.key_averages() if event.key == "nvrm_fast::step_") == 2


@pytest.mark.parametrize("by", ["native", "Python"])
def test_states_hold_these_very_objects(by, monkeypatch):
    """What a plan asks before each step: an equal tensor in another one's place is another tensor."""
    if by == "Python":
        monkeypatch.setattr(native, "_native", None)
    keys = "step", "moment"
    states = [{"moment": torch.ones(i), "step": torch.tensor(3), "other": None} for i in range(3)]
    objects = [state[key] for state in states for key in keys]
    assert native.hold(states, keys, objects)
    assert native.hold([], keys, [])
    assert not native.hold(states, keys, objects[:-1])
    assert not native.hold(states[:2], keys, objects)
    assert not native.hold(states, keys[::-1], objects)
    for key in keys:
        kept = states[1][key]
        states[1][key] = kept.clone()
        assert not native.hold(states, keys, objects)
        del states[1][key]
        assert not native.hold(states, keys, objects)
        states[1][key] = kept
    assert native.hold(states, keys, objects)


@pytest.mark.parametrize("step", ["at once", "by the operator"])
def test_state_that_was_replaced_is_the_one_that_is_stepped(step):
    """By a tensor with the same values: the old one keeps them, and the new one has the next step's."""
    param = torch.nn.Parameter(torch.ones(5))
    param.grad = torch.ones(5)
    optimizer = NVRMSGD([param], lr=0.1, momentum=0.9, variability=0.0)
    optimizer.step()
    state = optimizer.state[param]
    old = dict(state)
    for key in ("step", "momentum_buffer"):
        state[key] = state[key].clone()
    before = {key: old[key].clone() for key in ("step", "momentum_buffer")}
    if step == "by the operator":
        with Watcher():
            optimizer.step()
    else:
        optimizer.step()
    for key, value in before.items():
        assert torch.equal(old[key], value) and not torch.equal(state[key], value)
