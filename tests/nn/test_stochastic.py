"""Stochastic layers: their law, their gradients, modes, export and conversion."""

import copy
import itertools
import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import nn

from nvrm_fast import nn as noisy
from nvrm_fast import use_backend
from nvrm_fast.contract.layers import SUMS, StochasticSettings, sums_shape
from nvrm_fast.ops import stochastic as stochastic_ops
from nvrm_fast.reference import stochastic

LAYERS = [
    (lambda **more: noisy.StochasticLinear(6, 5, **more), (4, 6)),
    (lambda **more: noisy.StochasticConv2d(2, 4, 3, stride=2, padding=1, groups=2, **more), (2, 2, 5, 7)),
    (lambda **more: noisy.StochasticConv2d(2, 3, 2, padding=1, padding_mode="circular", **more), (2, 2, 4, 4)),
    (lambda **more: noisy.StochasticConv1d(2, 3, 3, dilation=2, **more), (2, 2, 9)),
    (lambda **more: noisy.StochasticConv3d(1, 2, 2, bias=False, **more), (2, 1, 3, 3, 3)),
]
IDS = ["linear", "grouped conv2d", "circular conv2d", "conv1d", "conv3d"]


@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_first_and_second_derivatives(sums):
    """By finite differences at fixed noise, in float64."""
    torch.manual_seed(sums)
    key = torch.tensor([5])
    for activation in (0, 1):
        z = (2 * torch.randn(2, 4, 2, dtype=torch.float64)).requires_grad_()
        settings = StochasticSettings(1, 0, 7, activation, sums, 0.3)
        used = 2 if sums else 1

        def function(z, settings=settings, used=used):
            return stochastic_ops.stochastic_activation(z, key, settings)[:used]

        assert torch.autograd.gradcheck(function, z)
        assert torch.autograd.gradgradcheck(function, z, fast_mode=True)


@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_operators(sums):
    """Schema, fake tensors, autograd and compilation of both operators, by torch's own checks."""
    z, key = torch.randn(4, 6, 5, requires_grad=True), torch.tensor([5])
    settings = (1, 0, 7, 1, sums, 0.3)
    torch.library.opcheck(torch.ops.nvrm_fast.stochastic_activation.default, (z, key, *settings))
    weight = torch.randn(sums_shape(z, sums), requires_grad=True)
    grad = torch.randn(4, 3, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.nvrm_fast.stochastic_activation_backward.default, (grad, weight, z, key, *settings))


@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_float32_steps_are_the_formula(sums):
    """What kernels compute by fixed steps is what float64 computes by torch's functions, up to float32 rounding."""
    torch.manual_seed(0)
    z, key = 4 * torch.randn(40, 12, 5), torch.tensor([5])
    z[0] *= 20
    settings = StochasticSettings(1, 0, 7, 1, sums, 0.3)
    grad, weight = torch.randn(40, 6, 5), torch.randn(sums_shape(z, sums))
    y, total = stochastic.stochastic_activation(z, key, *settings)
    truth, true_total = stochastic.stochastic_activation(z.double(), key, *settings)
    torch.testing.assert_close(y.double(), truth, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(total.double(), true_total, rtol=1e-5, atol=1e-4)
    dz = stochastic.stochastic_activation_backward(grad, weight, z, key, *settings)
    truth = stochastic.stochastic_activation_backward(grad.double(), weight.double(), z.double(), key, *settings)
    torch.testing.assert_close(dz.double(), truth, rtol=1e-5, atol=1e-5)


def test_deviation_to_its_last_bits():
    """softplus, its logarithm and slopes: within 3e-7 of the truth, relative, wherever float32 can hold them; the
    logarithm within 1e-6 of its size or of 1. Beyond, the logarithm and its slope are still those of the tail."""
    raw = torch.cat([torch.linspace(-80, 80, 100_001), torch.linspace(-3, 3, 50_001)])
    found, x = stochastic.deviation(raw), raw.double()
    sigma, slope = -F.logsigmoid(-x), torch.sigmoid(x)
    for mine, truth in ((found.sigma, sigma), (found.slope, slope), (found.log_slope, slope / sigma)):
        assert ((mine.double() - truth) / truth).abs().max() < 3e-7
    assert ((found.log.double() - sigma.log()).abs() / sigma.log().abs().clamp_min(1)).max() < 1e-6
    far = stochastic.deviation(torch.tensor([-1e4, -500.0]))
    assert far.log.tolist() == [-1e4, -500.0] and far.log_slope.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("make, shape", LAYERS, ids=IDS)
def test_law(make, shape):
    """(y - mean) / deviation is N(0, 1), by Kolmogorov and Smirnov at 1e-5: five false alarms in 100,000 seeds."""
    torch.manual_seed(1)
    layer, x = make(), torch.randn(1000 * shape[0], *shape[1:])
    with torch.no_grad():
        mean, deviation = layer.gaussian(x)
        eps = ((layer(x) - mean) / deviation).flatten()
    assert scipy.stats.kstest(eps.numpy(), "norm").pvalue > 1e-5
    neighbors = torch.corrcoef(torch.stack([eps[:-1], eps[1:]]))[0, 1]
    assert abs(neighbors.item()) < 5 / math.sqrt(len(eps))


@pytest.mark.parametrize("make, shape", LAYERS, ids=IDS)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_mean_mode_and_export_are_the_plain_layer(make, shape, activation):
    torch.manual_seed(2)
    layer, x = make(activation=activation), torch.randn(shape)
    noisy.set_noise_mode(layer, "mean")
    mean, _ = layer.gaussian(x)
    expected = layer(x)
    plain = noisy.to_plain(layer)
    assert not noisy.noisy_modules(plain)
    assert torch.equal(plain(x), expected)
    torch.testing.assert_close(expected, F.relu(mean) if activation else mean)
    weights = sum(p.numel() for p in plain.parameters())
    assert 2 * weights == sum(p.numel() for p in layer.parameters())


def test_conversion_of_chosen_layers():
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, groups=1), nn.ReLU(), nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(96, 4)
    )
    x = torch.randn(2, 1, 8, 8)
    stochastic_model = noisy.to_noisy(
        model, "stochastic", where=lambda name, layer: name != "4", initial_deviation=0.25
    )  # fmt: skip
    kinds = [type(module) for module in stochastic_model]
    assert kinds == [noisy.StochasticConv2d, nn.ReLU, noisy.StochasticConv2d, nn.Flatten, nn.Linear]
    _, deviation = stochastic_model[0].gaussian(x)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 0.25))
    back = noisy.to_plain(stochastic_model)
    assert torch.equal(back(x), model(x))
    assert [type(m) for m in back] == [type(m) for m in model]
    with noisy.noise_mode(stochastic_model, "mean"):
        assert torch.equal(stochastic_model(x), model(x))
    assert not torch.equal(stochastic_model(x), model(x))


def test_modes_and_their_keys():
    layer, x = noisy.StochasticLinear(6, 5), torch.randn(4, 6)
    assert not torch.equal(layer(x), layer(x))
    torch.manual_seed(7)
    first = layer(x)
    torch.manual_seed(7)
    assert torch.equal(layer(x), first)
    with noisy.noise_mode(layer, "fixed", seed=3):
        assert torch.equal(layer(x), layer(x))
        assert torch.equal(layer(x[:2]), layer(x)[:2])
    pair = nn.ModuleList([layer, copy.deepcopy(layer)])
    noisy.set_noise_mode(pair, "fixed", seed=3)
    assert not torch.equal(pair[0](x), pair[1](x))  # layers of one seed draw in streams of their own


@pytest.mark.parametrize("make, shape", LAYERS[:2], ids=IDS[:2])
def test_many_forwards_one_backward(make, shape):
    """The gradient of a sum of K passes is the sum of K gradients, each with the noise of its own pass."""
    torch.manual_seed(0)
    layer, x = make(activation="relu"), torch.randn(shape)
    noisy.set_regularizer(layer, noisy.MaxEntropy("neuron", margin=2.0))
    torch.manual_seed(9)
    sum(layer(x).square().sum() * (k + 1) for k in range(3)).backward()
    together = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    torch.manual_seed(9)
    for k in range(3):
        (layer(x).square().sum() * (k + 1)).backward()
    for a, p in zip(together, layer.parameters()):
        torch.testing.assert_close(a, p.grad)


def test_no_noise_is_saved():
    """Between forward and backward the layer keeps input, weight, bias, products and the key: no noise."""
    layer, x = noisy.StochasticLinear(64, 32), torch.randn(16, 64)
    saved = []  # 16 * 32 numbers would be noise or activations
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    assert sorted(t.numel() for t in saved) == sorted([16 * 64, 64 * 64, 64, 16 * 64, 1])


@pytest.mark.parametrize("make, shape", LAYERS[:2], ids=IDS[:2])
def test_autocast_and_low_precision(make, shape):
    torch.manual_seed(4)
    layer, x = make(activation="relu"), torch.randn(shape)
    noisy.set_regularizer(layer, noisy.MaxEntropy("sample", margin=2.0))
    with noisy.noise_mode(layer, "fixed", seed=1):
        exact = layer(x)
        exact_penalty = noisy.regularizer_loss(layer)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        penalty = noisy.regularizer_loss(layer)
        (y.float().sum() + penalty).backward()
        assert y.dtype == torch.bfloat16 and penalty.dtype == torch.float32
        assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in layer.parameters())
        torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.05)  # two roundings to 8 bits
        torch.testing.assert_close(penalty, exact_penalty, rtol=0.02, atol=0.02)
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_compiled():
    torch.manual_seed(5)
    model = nn.Sequential(noisy.StochasticLinear(6, 8, activation="relu"), nn.Linear(8, 3))
    noisy.set_regularizer(model, noisy.MaxEntropy("element", margin=1.0))
    noisy.set_noise_mode(model, "fixed", seed=2)
    compiled, x = torch.compile(model, fullgraph=True), torch.randn(4, 6)
    results = []
    for call in (model, compiled):
        model.zero_grad()
        y = call(x)
        (y.square().sum() + noisy.regularizer_loss(model)).backward()
        results.append([y.detach(), *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_second_derivatives_of_a_layer_on_every_backend():
    layer = noisy.StochasticConv2d(2, 4, 3, activation="relu")
    noisy.set_regularizer(layer, noisy.StandardNormal())
    results = []
    with noisy.noise_mode(layer, "fixed", seed=3):
        for backend in ("reference", None):
            x = torch.linspace(-1, 1, 50).view(1, 2, 5, 5).requires_grad_()
            with use_backend(backend) if backend else torch.enable_grad():
                loss = layer(x).square().sum() + noisy.regularizer_loss(layer)
                (dx,) = torch.autograd.grad(loss, x, create_graph=True)
                (ddx,) = torch.autograd.grad(dx.square().sum(), x)
            results.append((loss, dx, ddx))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_several_samples_in_one_pass():
    layer, x = noisy.StochasticLinear(6, 5), torch.randn(4, 6)
    draws = noisy.mc(layer, x, samples=4000)
    mean, deviation = layer.gaussian(x)
    assert draws.shape == (4000, 4, 5)
    # 20 means: 5 standard errors each.
    assert ((draws.mean(0) - mean).abs() < 5 * deviation / math.sqrt(4000)).all()


def test_bad_arguments():
    for make, more in itertools.product(
        (LAYERS[0][0], LAYERS[1][0]), ({"activation": "tanh"}, {"initial_deviation": 0})
    ):
        with pytest.raises(ValueError, match=next(iter(more))):
            make(**more)
    with pytest.raises(ValueError, match="needs bias=True"):
        noisy.StochasticLinear(2, 3, bias=False, initial_deviation=0.1)
