"""The layers as modules: drop-in, convertible, with modes of their own; and what they refuse."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from nvrm_fast import nn as noisy

NOISE = dict(direction=noisy.Projected(0.05), magnitude=noisy.NormalMagnitude(0.1))
PLAIN = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (2, 4, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 5, (3, 2), padding="same", dilation=2, bias=False), (2, 3, 8, 7)),
    "conv2d reflected": (lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (2, 3, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 3, 5)),
}


@pytest.mark.parametrize("kind, noise", [("direction", NOISE), ("variational", {}), ("gaussian", dict(alpha=0.1))])
@pytest.mark.parametrize("plain", PLAIN)
def test_conversion_and_the_mode_mean(plain, kind, noise):
    torch.manual_seed(0)
    make, shape = PLAIN[plain]
    layer, x = make(), torch.randn(shape)
    twin = noisy.noisy_layer(layer, kind, **noise)
    y = twin(x)
    assert y.shape == layer(x).shape and y.dtype == x.dtype and not torch.equal(y, twin(x))
    if kind != "variational":  # whose mean weight is shorter by E[cos angle]
        with noisy.noise_mode(twin, "mean"):
            torch.testing.assert_close(twin(x), layer(x))
    if kind != "gaussian":
        with noisy.noise_mode(twin, "mean"):
            torch.testing.assert_close(twin(x), noisy.to_plain(twin)(x))
    # One object without a batch dimension, as the plain layers take it.
    assert twin(x[0]).shape == layer(x[0]).shape


def test_names_of_parameters_are_those_of_torch():
    """weight_g and weight_v of torch.nn.utils.weight_norm; Gaussian dropout has the plain layer's."""
    layer = noisy.DirectionLinear(4, 3, **NOISE)
    assert {name: tuple(p.shape) for name, p in layer.state_dict().items()} == {
        "weight_v": (3, 4), "weight_g": (3, 1), "bias": (3,),
    }  # fmt: skip
    with pytest.warns(FutureWarning):
        theirs = nn.utils.weight_norm(nn.Linear(4, 3))
    layer.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4)
    with noisy.noise_mode(layer, "mean"):
        torch.testing.assert_close(layer(x), theirs(x))
    assert list(noisy.GaussianDropoutConv2d(1, 1, 3, alpha=0.1).state_dict()) == ["weight", "bias"]


def test_saving_copying_and_moving():
    layer = noisy.DirectionLinear(4, 3, direction=noisy.Rotation(0.5), magnitude=noisy.GammaMagnitude(0.2))
    layer(torch.randn(2, 4))  # fills what is kept of the law
    noisy.set_noise_mode(layer, "fixed", seed=2**64 - 1)
    x = torch.randn(5, 4)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), y)
    torch.testing.assert_close(layer.double()(x.double()).float(), y)  # one noise, two precisions
    low = layer.to(torch.bfloat16)
    assert low(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(low(x.bfloat16()).float(), y, rtol=0.1, atol=0.1)


def test_modes():
    torch.manual_seed(0)
    model = noisy.to_noisy(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), **NOISE)
    x = torch.randn(3, 4)
    torch.manual_seed(1)
    first = model(x)
    torch.manual_seed(1)
    assert torch.equal(model(x), first) and not torch.equal(model(x), first)
    model.eval()
    assert not torch.equal(model(x), model(x))  # noise does not follow train and eval
    with noisy.noise_mode(model, "fixed", seed=7):
        state = torch.get_rng_state()
        one = model(x)
        assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn
        with noisy.noise_mode(model, "fixed", seed=8):
            assert not torch.equal(model(x), one)
        with noisy.noise_mode(model, "mean"):
            assert torch.equal(model(x), model(x))
        assert torch.equal(model(x), one)
    for arguments, message in (
        (("noisy",), "mode must be one of"),
        (("fixed",), "needs a seed"),
        (("mean", 3), "no other mode takes one"),
        (("fixed", -1), "seed must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            noisy.set_noise_mode(model, *arguments)


def test_checkpointing_replays_the_noise():
    layer = noisy.DirectionLinear(4, 4, **NOISE)
    x = torch.randn(3, 4, requires_grad=True)
    gradients = []
    for run in (layer, lambda x: torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(5)
        gradients.append(torch.autograd.grad(run(x).square().sum(), x)[0])
    assert torch.equal(*gradients)


def test_one_draw_of_the_generator_a_pass():
    """As many random numbers whatever the layer's size: other noise of a program does not shift with it."""
    states = []
    for features in (3, 500):
        torch.manual_seed(0)
        noisy.DirectionLinear(8, features, **NOISE)
        torch.manual_seed(0)
        layer = noisy.DirectionLinear(8, 1, **NOISE) if features == 3 else noisy.DirectionLinear(8, features, **NOISE)
        torch.manual_seed(1)
        layer(torch.ones(features, 8))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_noise_is_not_saved_for_backward():
    """Between forward and backward a layer keeps the inputs, weights, products and a key: one tensor of the output's
    size."""
    layer = noisy.DirectionLinear(64, 256, **NOISE)
    x = torch.randn(512, 64)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        layer(x)
    assert sorted(kept.values(), reverse=True)[:3] == [512 * 256, 512 * 64, 64 * 256]
    assert sum(size > 512 for size in kept.values()) == 3


def test_a_model_whose_layer_occurs_twice():
    shared = nn.Linear(4, 4)
    model = noisy.to_noisy(nn.Sequential(shared, nn.ReLU(), shared), **NOISE)
    assert model[0] is model[2] and shared is not model[0]
    assert len(noisy.noisy_modules(model)) == 1


def test_what_to_convert():
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"head": nn.Linear(4, 2)}), nn.LSTM(2, 2))
    found = noisy.to_noisy(model, where=lambda name, layer: "head" in name, **NOISE)
    assert type(found[0]) is nn.Linear and type(found[1]["head"]) is noisy.DirectionLinear
    with pytest.raises(ValueError, match="kind must be one of"):
        noisy.to_noisy(model, "bayesian")


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: noisy.DirectionLinear(1, 3, **NOISE), ValueError, "no direction to turn"),
        (lambda: noisy.DirectionConv2d(2, 2, 1, groups=2, **NOISE), ValueError, "no direction to turn"),
        (lambda: noisy.DirectionLinear(3, 3, direction="projected"), TypeError, "direction must be a noise"),
        (lambda: noisy.DirectionLinear(3, 3, magnitude=noisy.Projected(1.0)), TypeError, "magnitude must be a noise"),
        (lambda: noisy.DirectionLinear(3, 3, sampling="naive"), ValueError, "sampling must be one of"),
        (lambda: noisy.DirectionLinear(3, 3, normalize="rows"), ValueError, "normalize must be"),
        (lambda: noisy.DirectionLinear(3, 3, normalize="input", **NOISE), ValueError, "has no local sampling"),
        (lambda: noisy.Projected(0.0), ValueError, "alpha must be positive"),
        (lambda: noisy.Rotation(-1.0), ValueError, "sigma must be positive"),
        (lambda: noisy.Rotation(1.0, low=-2.0), ValueError, "low and high must be in order"),
        (lambda: noisy.Rotation(1.0, mean=1.0, high=0.5), ValueError, "mean must be in"),
        (lambda: noisy.BetaRotation(math.inf), ValueError, "beta must be positive"),
        (lambda: noisy.VonMisesFisher(-1.0), ValueError, "kappa must be finite"),
        (lambda: noisy.GammaMagnitude(math.nan), ValueError, "alpha must be positive"),
        (lambda: noisy.VariationalLinear(3, 3, angle_mean=2.0), ValueError, "angle_mean in"),
        (lambda: noisy.VariationalLinear(3, 3, normalize="input"), ValueError, "has no local sampling"),
        (lambda: noisy.GaussianDropout(-0.1), ValueError, "alpha must be positive"),
        (lambda: noisy.SignalNoise(noisy.Projected(1.0))(torch.ones(3, 1)), ValueError, "no direction to turn"),
        (lambda: noisy.SignalNoise(noisy.Projected(1.0))(torch.ones(3)), ValueError, "x must have shape"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_magnitude_noise_alone_needs_no_direction():
    layer = noisy.DirectionLinear(1, 3, magnitude=noisy.NormalMagnitude(0.1))
    assert layer(torch.ones(2, 1)).isfinite().all()


def test_a_signal_that_is_zero_stays_zero():
    x = torch.zeros(3, 4, requires_grad=True)
    y = noisy.SignalNoise(noisy.Projected(0.5), noisy.NormalMagnitude(0.5))(x)
    y.sum().backward()
    assert not y.any() and x.grad.isfinite().all()


def test_conversion_leaves_the_generator_alone():
    """A converted model trains with the random numbers that the plain one would have had."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 5))
    before = torch.get_rng_state()
    noisy.to_noisy(model, direction=noisy.Projected(0.01))
    assert torch.equal(torch.get_rng_state(), before)
