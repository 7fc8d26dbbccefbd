"""Gradients of the pass after the product: right, right twice, and with the noise of their own forward pass."""

import math

import pytest
import torch
from law_parameters import PARAMETERS

from nvrm_fast import nn as noisy
from nvrm_fast.contract.layers import DirectionParameters, DirectionSettings
from nvrm_fast.ops import direction as direction_ops
from nvrm_fast.reference import direction_noise as reference
from nvrm_fast.reference.angles import ANGLES


def operands(direction, magnitude, given=False, fan_in=5, dtype=torch.float64, shape=(2, 4, 3), groups=2):
    torch.manual_seed(direction * 3 + magnitude)
    outer, neurons, inner = shape
    settings = DirectionSettings(1, 0, 7, direction, magnitude, fan_in, 0.5, -1.4, 1.5, given)
    first, second = (None if p is None else torch.full((neurons,), p, dtype=dtype) for p in PARAMETERS[direction])
    constants = torch.empty(0, neurons)
    if direction:
        constants = ANGLES[direction].constants(first, second, fan_in, settings.low, settings.high)
    parameter = lambda: 0.8 + 0.2 * torch.rand(neurons, dtype=dtype)  # noqa: E731
    s = torch.randn(shape, dtype=dtype)
    square = torch.randn(shape, dtype=dtype) if given else 8 + 3 * torch.rand(outer, groups, inner, dtype=dtype)
    inputs = [
        s, square if direction else torch.empty(0, dtype=dtype), parameter(), parameter(),
        parameter() if magnitude else None, parameter(), first, second,
    ]  # fmt: skip
    for i, x in enumerate(inputs):
        # The concentration of von Mises-Fisher is accepted with the proposal: it has no path.
        if x is not None and not (i == 6 and direction == 5) and not (i == 1 and direction == 0):
            x.requires_grad_()
    return inputs, constants, settings


@pytest.mark.parametrize(
    "direction, magnitude, given",
    [(d, 1, False) for d in PARAMETERS] + [(1, 0, False), (3, 0, True), (4, 2, True), (5, 2, False)],
)
def test_first_and_second_derivatives(direction, magnitude, given):
    """By finite differences at fixed noise, in float64, with respect to everything."""
    inputs, constants, settings = operands(direction, magnitude, given, shape=(2, 2, 2))
    key = torch.tensor([77])

    def function(*inputs):
        return direction_ops.direction_noise(*inputs[:3], DirectionParameters(*inputs[3:], constants, key), settings)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("direction", PARAMETERS)
def test_float32_steps_are_the_formula(direction):
    """What kernels compute by fixed steps is what float64 computes by torch's functions, up to float32 rounding."""
    inputs, constants, settings = operands(direction, 1, shape=(40, 6, 5))
    narrow = [None if x is None else x.detach().float() for x in inputs]
    key = torch.tensor([5])
    wide_inputs = [None if x is None else x.detach().double() for x in narrow]
    y = reference.direction_noise(*narrow, constants, key, *settings)
    torch.testing.assert_close(
        y.double(), reference.direction_noise(*wide_inputs, constants, key, *settings), rtol=0, atol=2e-5
    )
    grad = torch.randn_like(y)
    found = reference.direction_noise_backward(grad, *narrow, constants, key, *settings, True)
    truth = reference.direction_noise_backward(grad.double(), *wide_inputs, constants, key, *settings, True)
    for a, b in zip(found, truth):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * max(b.abs().max().item() if b.numel() else 0, 1))


@pytest.mark.parametrize("sampling", ["local", "shared", "batch", "flipout"])
def test_many_forwards_one_backward(sampling):
    """The gradient of a sum of K passes is the sum of K gradients; libraries that keep one noise buffer fail here."""
    torch.manual_seed(0)
    layer = noisy.DirectionLinear(
        6, 5, direction=noisy.Rotation(0.5), magnitude=noisy.NormalMagnitude(0.3), sampling=sampling
    )
    x, weights = torch.randn(4, 6), torch.randn(4, 5)
    torch.manual_seed(9)
    sum((layer(x) * weights).sum() * (k + 1) for k in range(3)).backward()
    together = [p.grad.clone() for p in layer.parameters()]
    apart = [torch.zeros_like(p) for p in layer.parameters()]
    torch.manual_seed(9)
    for k in range(3):
        layer.zero_grad()
        ((layer(x) * weights).sum() * (k + 1)).backward()
        for total, p in zip(apart, layer.parameters()):
            total += p.grad
    for a, b in zip(together, apart):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("fan_in", [2, 3, 9])
def test_inputs_parallel_to_the_weights(fan_in):
    """rho = 0: the output is cos times the projection and every gradient is finite."""
    layer = noisy.DirectionLinear(fan_in, 3, bias=False, direction=noisy.Projected(0.1))
    x = (2 * layer.weight_v.detach()[:1]).clone().requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    with noisy.noise_mode(layer, "mean"):
        assert abs(y[0, 0].item()) <= layer(x)[0, 0].item() + 1e-3
    zero = torch.zeros(2, fan_in, requires_grad=True)
    layer(zero).sum().backward()
    assert zero.grad.isfinite().all()


EXTREME = [
    noisy.Projected(1e-8), noisy.Projected(1e8), noisy.Tangent(1e-8), noisy.Tangent(1e8), noisy.Rotation(1e-4),
    noisy.Rotation(1e4), noisy.Rotation(1e-4, mean=0.0, low=0.0), noisy.Rotation(1e4, mean=math.pi / 2, low=0.0),
    noisy.BetaRotation(1e-2), noisy.BetaRotation(1e4), noisy.VonMisesFisher(0.0), noisy.VonMisesFisher(1e7),
]  # fmt: skip


@pytest.mark.parametrize("direction", EXTREME, ids=str)
@pytest.mark.parametrize("magnitude", [None, noisy.NormalMagnitude(100.0), noisy.GammaMagnitude(100.0)], ids=str)
def test_extreme_noise_stays_finite(direction, magnitude):
    torch.manual_seed(1)
    layer = noisy.DirectionLinear(7, 64, direction=direction, magnitude=magnitude)
    x = torch.randn(64, 7, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in layer.parameters())
    if direction in (noisy.Projected(1e-8), noisy.Rotation(1e-4), noisy.VonMisesFisher(1e7)) and magnitude is None:
        with noisy.noise_mode(layer, "mean"):
            mean = layer(x)
        assert (layer(x) - mean).abs().max() < 0.01


def test_gradient_of_an_expectation():
    """Pathwise gradients are unbiased: the mean of sampled ones is the gradient of the mean.

    E[f^2] of a rotation in the plane's two dimensions is known: for unit v and x, E = cos^2(x, v) E[cos^2] +
    sin^2(x, v) E[sin^2] u^2. 5 standard errors: false alarms 6e-7 a parameter."""
    torch.manual_seed(2)
    draws, sigma = 200_000, 0.4
    layer = noisy.VariationalLinear(2, 1, bias=False, alpha=0.2, angle_mean=0.5, angle_deviation=sigma)
    x = torch.tensor([[1.0, 0.4]])
    mean, deviation = (p.detach().double().requires_grad_() for p in layer.angle_posterior())
    g, spread = layer.weight_g.detach().double().flatten(), layer.log_spread.detach().double().exp()
    unit = (layer.weight_v / layer.weight_v.norm()).detach().double().flatten()
    s = float(unit @ x[0].double())
    grid = torch.linspace(0, math.pi / 2, 20_001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((grid - mean) / deviation) ** 2)
    density = density / torch.trapezoid(density, grid)
    rest = float(x.double().square().sum()) - s * s
    turned = torch.trapezoid(density * (torch.cos(grid) ** 2 * s * s + torch.sin(grid) ** 2 * rest), grid)
    expected = torch.autograd.grad((g**2 + spread**2).sum() * turned, [mean, deviation])

    first, second = (p.detach().expand(draws).clone().requires_grad_() for p in layer.angle_posterior())
    law = ANGLES[3].constants(first, second, 2, 0.0, math.pi / 2)
    settings = DirectionSettings(0, 0, 0, 3, 1, 2, 0.0, 0.0, math.pi / 2, False)
    row = lambda value: torch.full((draws,), float(value))  # noqa: E731
    y = direction_ops.direction_noise(
        row(s).view(1, draws, 1), x.square().sum().view(1, 1, 1), row(1),
        DirectionParameters(row(g), row(spread), None, first, second, law, torch.tensor([11])), settings,
    )  # fmt: skip
    y.square().sum().backward()
    for found, truth in zip((first.grad, second.grad), expected):
        found = found.double()
        assert abs(found.mean().item() - truth.item()) < 5 * found.std().item() / math.sqrt(draws)
        assert abs(truth.item()) > 10 * found.std().item() / math.sqrt(draws)


def test_gaussian_dropout_layers():
    torch.manual_seed(3)
    for layer, x in (
        (noisy.GaussianDropout(0.3), torch.randn(3, 4)),
        (noisy.GaussianDropoutLinear(4, 3, alpha=0.3), torch.randn(5, 4)),
        (noisy.GaussianDropoutConv2d(2, 3, 2, stride=2, padding=1, groups=1, alpha=0.3), torch.randn(2, 2, 5, 4)),
        (noisy.SignalNoise(noisy.Projected(0.2), noisy.GammaMagnitude(0.2)), torch.randn(3, 4)),
    ):
        layer.double()
        with noisy.noise_mode(layer, "fixed", seed=4):
            inputs = [x.double().requires_grad_(), *layer.parameters()]
            function = lambda x, *p, layer=layer: layer(x)  # noqa: E731
            assert torch.autograd.gradcheck(function, inputs)
            assert torch.autograd.gradgradcheck(function, inputs)
