"""Neural variable optimizers against the paper's algorithm 1 with stored noise, and the life of the perturbation."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
from training import Model, loss_of, same, train, weights

from nvrm_fast import NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion, noise
from nvrm_fast.contract import record
from nvrm_fast.contract.streams import stream_of_name
from nvrm_fast.variable_optim import VSGD, VAdam

CLASSES = [
    (NVRMSGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    (NVRMAdam, dict(lr=0.01)),
    (NVRMAdamW, {}),
    (NVRMLion, {}),
]
every_class = pytest.mark.parametrize("cls, options", CLASSES)
STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


#: Of one size for every parameter.
IN_EVERY_STATE = ("step", "perturbation")


class StoredNoise:
    """Algorithm 1 of the paper, noise kept in memory: theta_t = rule(theta_(t-1)) + eps_t - eps_(t-1).

    The rule is torch.optim's own; only where its draws come from is shared with the optimizer under test.
    """

    def __init__(self, optimizer, model, b, distribution):
        self.optimizer, self.model, self.b, self.distribution = optimizer, model, b, distribution
        self.eps = {p: torch.zeros_like(p) for p in model.parameters()}
        self.t = {p: 0 for p in model.parameters()}

    def zero_grad(self):
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self):
        self.optimizer.step()
        for stream, p in enumerate(self.model.parameters()):
            if p.grad is None:
                continue
            self.t[p] += 1
            draw = noise(p.numel(), seed=3, stream=stream, step=self.t[p], distribution=self.distribution, scale=self.b)
            fresh = draw.view(p.shape).to(p.dtype)
            p.add_(fresh - self.eps[p])
            self.eps[p] = fresh

    @torch.no_grad()
    def denoise(self):
        for p in self.model.parameters():
            p.sub_(self.eps[p])
            self.eps[p] = torch.zeros_like(p)


@pytest.mark.parametrize("distribution", ["gaussian", "uniform", "laplace", "rademacher"])
@pytest.mark.parametrize(
    "ours, theirs, options",
    [
        (NVRMSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9)),
        (NVRMAdam, torch.optim.Adam, dict(lr=0.01)),
    ],
)
@STORAGES
def test_algorithm_1(ours, theirs, options, distribution, masters):
    """In float64, where the different order of additions costs 1e-15 and 20 steps cannot blow it up to 1e-10."""
    model, twin = Model(torch.float64), Model(torch.float64)
    optimizer = ours(
        model.parameters(), variability=0.05, noise=distribution, seed=3, master_weights=masters, **options
    )
    stored = StoredNoise(theirs(twin.parameters(), **options), twin, 0.05, distribution)
    for start in (0, 10):
        train(model, optimizer, 10, start)
        train(twin, stored, 10, start)
        for a, b in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        optimizer.denoise()
        stored.denoise()
        for a, b in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@every_class
@STORAGES
def test_the_perturbation_is_the_noise_of_the_contract(cls, options, masters):
    model = Model()
    optimizer = cls(model.named_parameters(), variability=0.03, seed=2**63 + 1, master_weights=masters, **options)
    train(model, optimizer, 3)
    noisy = weights(model)
    optimizer.denoise()
    for name, p in model.named_parameters():
        if name == "unused":
            assert torch.equal(noisy[name], p)
            continue
        stream = int(optimizer.state[p]["perturbation"][record.STREAM])
        assert stream == stream_of_name(name)
        eps = noise(p.numel(), seed=2**63 + 1, stream=stream, step=3, scale=0.03).view(p.shape)
        if masters:
            assert torch.equal(noisy[name], p + eps)
        else:
            torch.testing.assert_close(noisy[name], p + eps, rtol=0, atol=3e-7)


@every_class
@STORAGES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_looking_changes_nothing(cls, options, masters, dtype):
    """A run with evaluations on clean weights, by any of the ways, ends bit for bit as one without."""
    quiet, watched = Model(dtype), Model(dtype)
    optimizers = [cls(m.parameters(), variability=0.05, master_weights=masters, **options) for m in (quiet, watched)]
    train(quiet, optimizers[0], 6)
    look = optimizers[1]
    for i in range(6):
        train(watched, look, 1, start=i)
        noisy = weights(watched)
        if i % 2:
            with look.denoised():
                assert not same(noisy, weights(watched))
                with look.denoised():
                    clean = weights(watched)
        else:
            look.eval()
            look.eval()
            clean = weights(watched)
            look.train()
            look.train()
        assert same(noisy, weights(watched))
    assert same(weights(quiet), weights(watched))
    look.denoise()
    assert same(clean, weights(watched))
    optimizers[0].denoise()
    assert same(weights(quiet), weights(watched))


def test_denoised_restores_after_an_exception():
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.05)
    train(model, optimizer, 2)
    noisy = weights(model)
    with pytest.raises(KeyError), optimizer.denoised():
        raise KeyError
    assert same(noisy, weights(model))
    train(model, optimizer, 1)


def test_step_in_evaluation_mode_is_refused():
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.05)
    train(model, optimizer, 1)
    loss_of(model, 1).backward()
    optimizer.eval()
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) first"):
        optimizer.step()
    assert same(before, weights(model))
    optimizer.train()
    optimizer.step()
    with optimizer.denoised():
        optimizer.denoise()  # off for good: leaving the block puts nothing on
        clean = weights(model)
    assert same(clean, weights(model))


@every_class
def test_denoise_every(cls, options):
    """After every third step of a parameter its weights are clean; one that joined late keeps its own count."""
    model = Model()
    optimizer = cls(model.parameters(), variability=0.05, denoise_every=3, **options)
    model.scalar.requires_grad_(False)
    train(model, optimizer, 1)
    model.scalar.requires_grad_(True)
    for i in range(1, 9):
        train(model, optimizer, 1, start=i)
        steps = {name: i if name == "scalar" else i + 1 for name, _ in model.named_parameters()}
        noisy = weights(model)
        with optimizer.denoised():
            clean = weights(model)
        for name in noisy:
            rests = name == "unused" or steps[name] % 3 == 0
            assert torch.equal(noisy[name], clean[name]) == rests, (name, i)


def test_changing_the_noise_between_steps():
    """b, noise type and seed may be scheduled: the noise that is on comes off exactly."""
    model = Model(torch.float64)
    optimizer = NVRMSGD(model.parameters(), lr=0.0, variability=0.05)
    plain = weights(model)
    group = optimizer.param_groups[0]
    changes = (
        {},
        dict(variability=0.2),
        dict(noise="laplace"),
        dict(seed=2**64 - 1),
        dict(variability=0.0),
        dict(noise="uniform", variability=0.1),
    )
    for i, change in enumerate(changes):
        group.update(change)
        train(model, optimizer, 1, start=i)
        with optimizer.denoised():
            for name, p in model.named_parameters():
                torch.testing.assert_close(p.detach(), plain[name], rtol=0, atol=1e-15)


def test_closure_sees_noisy_weights_and_its_loss_is_returned():
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.05)
    train(model, optimizer, 1)
    noisy = weights(model)

    def closure():
        assert same(noisy, weights(model))
        optimizer.zero_grad()
        loss = loss_of(model, 1)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == loss_of_weights(noisy, 1)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("call", ["eval", "denoised"])
@pytest.mark.parametrize("groups", [1, 2])
def test_evaluation_mode_that_begins_in_the_closure_is_refused(call, groups, masters):
    """Before anything is written; after train() all is as if the step had not been called."""
    model = Model()
    params = list(model.parameters())
    split = [{"params": part} for part in (params[:2], params[2:])] if groups == 2 else params
    optimizer = NVRMSGD(split, lr=0.1, momentum=0.9, variability=0.05, master_weights=masters)
    train(model, optimizer, 2)
    noisy, state = weights(model), copy.deepcopy(optimizer.state_dict())
    plain, twin = copy.deepcopy((model, optimizer))
    blocks = contextlib.ExitStack()

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, 2)
        loss.backward()
        optimizer.eval() if call == "eval" else blocks.enter_context(optimizer.denoised())
        return loss

    with pytest.raises(RuntimeError, match="step.. while the noise is off for evaluation: call optimizer.train"):
        optimizer.step(closure)
    clean = weights(model)
    with optimizer.denoised():
        assert same(clean, weights(model))
    optimizer.train() if call == "eval" else blocks.close()
    assert same(noisy, weights(model)) and not same(noisy, clean)
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for index, own in state["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in own.items())
    for own, each in ((model, optimizer), (plain, twin)):
        train(own, each, 2, start=2)
    assert same(weights(model), weights(plain))


def test_a_closure_that_evaluates_and_trains_again_steps():
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.05)
    train(model, optimizer, 1)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, 1)
        loss.backward()
        with optimizer.denoised():
            pass
        return loss

    plain, twin = copy.deepcopy((model, optimizer))
    optimizer.step(closure)
    train(plain, twin, 1, start=1)
    assert same(weights(model), weights(plain))


def loss_of_weights(values, i):
    model = Model()
    model.load_state_dict(values)
    return loss_of(model, i).item()


def test_no_extra_memory_in_place():
    """State holds what torch.optim holds, and a record of 64 bytes a tensor: 0 extra bytes an element."""
    for cls, theirs, options in (
        (NVRMSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9)),
        (NVRMAdam, torch.optim.Adam, dict(lr=0.1)),
    ):
        sizes = []
        for make in (cls, theirs):
            model = Model()
            optimizer = make(model.parameters(), **options)
            train(model, optimizer, 2)
            tensors = [x for state in optimizer.state.values() for k, x in state.items() if k not in IN_EVERY_STATE]
            sizes.append(sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor)))
        assert sizes[0] == sizes[1]


def test_layers_of_one_shape_get_different_noise():
    params = [torch.nn.Parameter(torch.zeros(64)) for _ in range(3)]
    optimizer = NVRMSGD(params, lr=0.0, variability=1.0)
    for p in params:
        p.grad = torch.ones(64)
    optimizer.step()
    assert not torch.equal(params[0], params[1]) and not torch.equal(params[1], params[2])


def test_names_free_the_streams_from_order():
    def draws(names):
        named = [(name, torch.nn.Parameter(torch.zeros(8))) for name in names]
        optimizer = NVRMSGD(named, lr=0.0, variability=1.0)
        for _, p in named:
            p.grad = torch.zeros(8)
        optimizer.step()
        return {name: p.detach() for name, p in named}

    forward, backward = draws(["a", "b", "c"]), draws(["c", "b", "a"])
    assert same(forward, backward)


def test_streams_never_collide(monkeypatch):
    from nvrm_fast.contract import streams

    monkeypatch.setattr(streams, "stream_of_name", lambda name: 2**32 - 1)
    assert streams.assign_streams(["a", "b", "c"], 3, {1}) == [2**32 - 1, 0, 2]
    assert streams.assign_streams(None, 3, {0, 1, 4}) == [3, 5, 6]


def test_stream_of_a_name_never_changes():
    assert stream_of_name("layer1.0.conv1.weight") == 0xDDE4D3CE


@every_class
@STORAGES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", ["torch.save", "pickle", "deepcopy"])
def test_resume_in_the_middle_with_noise_on(cls, options, masters, dtype, way):
    straight = Model(dtype)
    optimizer = cls(straight.parameters(), variability=0.05, master_weights=masters, **options)
    train(straight, optimizer, 4)
    if way == "torch.save":
        file = io.BytesIO()
        torch.save((straight.state_dict(), optimizer.state_dict()), file)
        file.seek(0)
        model_state, state = torch.load(file)
        resumed = Model(dtype)
        resumed.load_state_dict(model_state)
        again = cls(resumed.parameters(), variability=0.3, master_weights=masters, **options)
        again.load_state_dict(state)
    elif way == "pickle":
        resumed, again = pickle.loads(pickle.dumps((straight, optimizer)))
    else:
        resumed, again = copy.deepcopy((straight, optimizer))
    assert again.param_groups[0]["variability"] == 0.05
    train(straight, optimizer, 3, start=4)
    train(resumed, again, 3, start=4)
    assert same(weights(straight), weights(resumed))
    optimizer.denoise()
    again.denoise()
    assert same(weights(straight), weights(resumed))


def test_published_names():
    """The argument lists of the published code, its per-group spelling and its clean weights after num_iters steps."""
    for cls, ours, options in ((VSGD, NVRMSGD, dict(lr=0.1, momentum=0.9)), (VAdam, NVRMAdam, dict(lr=0.01))):
        model, twin = Model(), Model()
        published = cls(model.parameters(), variability=0.05, num_iters=4, noise_type="Laplace", **options)
        optimizer = ours(twin.parameters(), variability=0.05, denoise_every=4, noise="laplace", **options)
        train(model, published, 4)
        train(twin, optimizer, 4)
        assert same(weights(model), weights(twin))
        optimizer.denoise()
        assert same(weights(model), weights(twin))
    groups = [dict(params=[torch.nn.Parameter(torch.zeros(2))], num_iters=7, noise_type="Uniform")]
    group = VSGD(groups, 0.1).param_groups[0]
    assert (group["denoise_every"], group["noise"]) == (7, "uniform")
    assert VSGD([torch.zeros(2)], 0.1, num_iters=1e3).param_groups[0]["denoise_every"] == 1000
    for bad in (dict(num_iters=0), dict(num_iters=2.5), dict(variability=0), dict(noise_type="gaussian")):
        with pytest.raises(ValueError, match=next(iter(bad))):
            VSGD([torch.zeros(2)], 0.1, **bad)


def test_l2_decay_does_not_make_weights_without_gradient_jitter():
    """Weights whose loss has no gradient stay where decay leaves them, at 0 here. The published Adam decays the noisy
    ones and divides that by its own size: there they scatter by about four learning rates (docs/optimizers.md)."""
    lr, b, decay, steps = 1e-3, 0.03, 1e-4, 400
    weight = torch.nn.Parameter(torch.zeros(5000))
    optimizer = NVRMAdam([weight], lr=lr, weight_decay=decay, variability=b)
    torch.manual_seed(0)
    theirs, mean, square = torch.zeros(5000), torch.zeros(5000), torch.zeros(5000)
    for step in range(1, steps + 1):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        gradient = decay * (theirs + b * torch.randn(5000))
        mean.mul_(0.9).add_(gradient, alpha=0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        theirs -= lr * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    with optimizer.denoised():
        assert weight.detach().abs().max() < 1e-6
    assert 3.5 * lr < theirs.std() < 4.2 * lr


@pytest.mark.parametrize("others", [0, 1], ids=["every parameter has a gradient", "one has none"])
def test_states_that_change_places_are_stepped_where_they_are_now(others):
    """The next step knows the same states in the same dictionary, and belongs to other parameters."""
    params = [torch.nn.Parameter(torch.full((4,), float(i))) for i in range(3 + others)]
    optimizer = NVRMSGD(params, lr=0.1, momentum=0.9, variability=0.0)
    for i, param in enumerate(params[:3]):
        param.grad = torch.full((4,), 1.0 + i)
    optimizer.step()
    a, b, c = params[:3]
    state = optimizer.state
    state[a], state[b] = state[b], state[a]
    held = state.pop(c)  # and the order of the keys changes, too
    state[c] = held
    before = [param.detach().clone() for param in params]
    optimizer.step()
    for param, was, buffer, grad in zip((a, b, c), before, (2.0, 1.0, 3.0), (1.0, 2.0, 3.0)):
        torch.testing.assert_close(param.detach(), was - 0.1 * (0.9 * buffer + grad))
