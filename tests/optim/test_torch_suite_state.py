"""torch's generic checks of state: dictionaries, old and foreign ones, hooks, copies; at b = 0 and with noise."""

import copy
import inspect
import io
import pickle
from copy import deepcopy

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch_suite import (
    assert_near,
    every_input,
    every_pair,
    every_perturbed,
    give_gradients,
    make_closure,
    make_params,
    noisy_or_not,
)


def go(optimizer, params, start, steps):
    for i in range(start, start + steps):
        give_gradients(params, i)
        optimizer.step()


def equal(a, b):
    """Like ==, with tensors compared bit for bit and told apart by dtype."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    return a == b


@every_input
@noisy_or_not
def test_state_dicts_are_deterministic(ours, theirs, kwargs, b):
    """Two runs from one state stay equal, states included, and loading writes nothing into what is loaded."""
    params = make_params()
    optimizer = ours(params, variability=b, **deepcopy(kwargs))
    closure = make_closure(optimizer, params)
    for _ in range(5):
        optimizer.step(closure)
    assert optimizer.state and all(optimizer.state[p] for p in params)
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = ours(twins, variability=b, **deepcopy(kwargs))
    loaded = deepcopy(optimizer.state_dict())
    before = deepcopy(loaded)
    again.load_state_dict(loaded)
    assert equal(loaded, before)
    for _ in range(5):
        optimizer.step(closure)
        again.step(make_closure(again, twins))
        assert all(torch.equal(p, q) for p, q in zip(params, twins))
    assert equal(optimizer.state_dict(), again.state_dict())


@every_input
@noisy_or_not
def test_saved_and_loaded_weights_only(ours, theirs, kwargs, b):
    params = make_params()
    optimizer = ours(params, variability=b, **deepcopy(kwargs))
    go(optimizer, params, 0, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    assert equal(torch.load(file, weights_only=True), optimizer.state_dict())


@every_pair
def test_states_of_torch_and_older_ones(ours, theirs):
    """Options and a tensor step may be missing in what an older torch wrote."""
    options = dict(lr=0.05)
    params, twins = make_params(dtype=torch.float64), make_params(dtype=torch.float64)
    optimizer, reference = ours(params, variability=0.0, **options), theirs(twins, **options)
    go(optimizer, params, 0, 3)
    go(reference, twins, 0, 3)
    old = deepcopy(reference.state_dict())
    for group in old["param_groups"]:
        for key in ("maximize", "foreach", "fused", "differentiable", "capturable", "decoupled_weight_decay"):
            group.pop(key, None)
    for state in old["state"].values():
        if "step" in state:
            state["step"] = state["step"].item()
    optimizer.load_state_dict(old)
    go(optimizer, params, 3, 3)
    go(reference, twins, 3, 3)
    assert_near(params, twins)


@every_perturbed
@pytest.mark.parametrize("saved_with_names", [True, False])
@noisy_or_not
def test_from_and_to_named_parameters(ours, theirs, saved_with_names, b):
    """The streams come with the records: a run goes on bit for bit whether its parameters have names or not."""

    def named(params, really):
        return list(zip(("weight", "bias"), params)) if really else params

    params = make_params()
    optimizer = ours(named(params, saved_with_names), variability=b)
    go(optimizer, params, 0, 3)
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = ours(named(twins, not saved_with_names), variability=b)
    again.load_state_dict(deepcopy(optimizer.state_dict()))
    go(optimizer, params, 3, 3)
    go(again, twins, 3, 3)
    assert all(torch.equal(p, q) for p, q in zip(params, twins))
    assert again.param_groups[0]["param_names"] == ["weight", "bias"]


@every_pair
@noisy_or_not
def test_step_hooks(ours, theirs, b):
    """Before: the weights of the last step, noise on. After: the new ones. In torch's order, and for one step each."""
    params = make_params()
    optimizer = ours(params, lr=0.1, variability=b)
    seen = []

    def note(name):
        return lambda optimizer, args, kwargs: seen.append((name, params[0].detach().clone()))

    handles = [
        register_optimizer_step_pre_hook(note("every pre")),
        register_optimizer_step_post_hook(note("every post")),
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_post_hook(note("post")),
    ]
    try:
        start = params[0].detach().clone()
        go(optimizer, params, 0, 2)
    finally:
        for handle in handles:
            handle.remove()
    between, end = seen[3][1], params[0].detach().clone()
    go(optimizer, params, 2, 1)
    names, values = zip(*seen)
    assert names == ("every pre", "pre", "post", "every post") * 2
    for value, expected in zip(values, [start, start, between, between, between, between, end, end]):
        assert torch.equal(value, expected)
    assert not torch.equal(start, between) and not torch.equal(between, end)


@every_pair
def test_a_pre_hook_may_replace_the_closure(ours, theirs):
    params = make_params()
    optimizer = ours(params)
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((optimizer, lambda: 7.0), kwargs))
    assert optimizer.step(lambda: 3.0) == 7.0


@every_pair
@pytest.mark.parametrize("prepend", [False, True])
def test_state_dict_hooks(ours, theirs, prepend):
    params = make_params()
    optimizer = ours(params)
    go(optimizer, params, 0, 1)
    calls = []
    optimizer.register_state_dict_pre_hook(lambda optimizer: calls.append("pre"))
    optimizer.register_state_dict_post_hook(lambda optimizer, state: {"mine": calls.append("post")})
    optimizer.register_state_dict_post_hook(lambda optimizer, state: calls.append(sorted(state)), prepend=prepend)
    assert optimizer.state_dict() == {"mine": None}
    assert calls == (["pre", ["param_groups", "state"], "post"] if prepend else ["pre", "post", ["mine"]])


@every_pair
@pytest.mark.parametrize("prepend", [False, True])
def test_load_state_dict_hooks(ours, theirs, prepend):
    """A pre hook may change what is loaded; post hooks see the loaded state, complete."""
    params = make_params()
    optimizer = ours(params, lr=0.1)
    go(optimizer, params, 0, 2)
    saved = deepcopy(optimizer.state_dict())
    again = ours(make_params(), lr=0.7)
    calls = []

    def change(optimizer, state):
        assert "lr" in state["param_groups"][0]
        return {**state, "param_groups": [{**group, "lr": 0.3} for group in state["param_groups"]]}

    again.register_load_state_dict_pre_hook(change)
    again.register_load_state_dict_pre_hook(
        lambda optimizer, state: calls.append(state["param_groups"][0]["lr"]), prepend=prepend
    )
    again.register_load_state_dict_post_hook(
        lambda optimizer: calls.append((optimizer.param_groups[0]["lr"], len(optimizer.state)))
    )
    again.load_state_dict(saved)
    assert calls == [0.1 if prepend else 0.3, (0.3, 2)]
    assert saved["param_groups"][0]["lr"] == 0.1


@every_input
@noisy_or_not
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies(ours, theirs, kwargs, b, way):
    """Copied with its parameters: public attributes, state, and the run that follows, bit for bit."""
    params = make_params()
    optimizer = ours(params, variability=b, **deepcopy(kwargs))
    go(optimizer, params, 0, 2)
    both = (params, optimizer)
    twins, again = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))

    def public(thing):
        return {key for key in vars(thing) if not key.startswith("_")}

    assert public(again) == public(optimizer)
    assert equal(again.state_dict(), optimizer.state_dict())
    go(optimizer, params, 2, 2)
    go(again, twins, 2, 2)
    assert all(torch.equal(p, q) for p, q in zip(params, twins))


@every_pair
def test_a_state_of_other_groups_is_refused(ours, theirs):
    params = make_params()
    one = ours(params, variability=0.05)
    go(one, params, 0, 1)
    before = deepcopy(one.state_dict()), [p.detach().clone() for p in params]
    for wrong, message in (
        (ours([dict(params=[p]) for p in make_params()]), "different number of parameter groups"),
        (ours(make_params()[:1]), "doesn't match the size of optimizer's group"),
    ):
        with pytest.raises(ValueError, match=message):
            one.load_state_dict(wrong.state_dict())
        assert equal(one.state_dict(), before[0])
    assert all(torch.equal(p, q) for p, q in zip(params, before[1]))


@every_pair
def test_torchs_arguments_in_torchs_places(ours, theirs):
    """Every argument of torch's class is one here, with its default; those given by position have its place."""
    mine, other = (inspect.signature(cls).parameters for cls in (ours, theirs))
    for name, parameter in other.items():
        assert name in mine and mine[name].default == parameter.default, name
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and mine[name].kind is parameter.kind:
            assert list(mine).index(name) == list(other).index(name)
