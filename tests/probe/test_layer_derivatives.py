"""Local derivatives and eq. 2 against autograd, finite differences and the linear model."""

import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.nn.functional import cross_entropy, mse_loss

from nvrm_fast.probe import (
    NoiseInjection,
    linear,
    local_gradient,
    local_hessian_product,
    local_hessian_trace,
    update_sides,
)


@pytest.fixture
def setting():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    injection = NoiseInjection(net, "0", sigma=0.7, nodes=2)
    return net, injection, cross_entropy, torch.randn(5, 4, dtype=torch.float64), torch.randint(3, (5,))


def by_hand(net, x, y):
    """Gradient and Hessian of each example's loss in z, written out without hooks."""
    z = nn.functional.linear(x, net[0].weight, net[0].bias).detach()

    def loss(one, target):
        return cross_entropy(net[2](torch.tanh(one)).unsqueeze(0), target.unsqueeze(0))

    g, h = [], []
    for one, target in zip(z, y):
        one = one.clone().requires_grad_()
        g.append(torch.autograd.grad(loss(one, target), one)[0])
        h.append(hessian(lambda v, target=target: loss(v, target), one.detach()))
    return torch.stack(g), torch.stack(h)


def test_local_gradient_and_hessian(setting):
    net, injection, loss, x, y = setting
    g, h = by_hand(net, x, y)
    torch.testing.assert_close(local_gradient(*setting), g)
    v = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(local_hessian_product(*setting, v), (h @ v.unsqueeze(2)).squeeze(2))
    trace = float(h.diagonal(dim1=1, dim2=2).sum(1).mean())
    assert local_hessian_trace(*setting) == (pytest.approx(trace, rel=1e-12), 0.0)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_hutchinson_finds_the_trace_within_its_error(setting):
    exact, _ = local_hessian_trace(*setting)
    estimate, error = local_hessian_trace(*setting, samples=400, seed=3)
    # Five standard errors: a right estimate fails once in 1.7 million seeds.
    assert 0 < error < 0.1 * abs(exact) and abs(estimate - exact) < 5 * error
    with pytest.raises(ValueError, match="samples must be 2 or more"):
        local_hessian_trace(*setting, samples=1)


def test_a_convolutions_features_are_its_channels():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, 2)).double()
    injection = NoiseInjection(net, "0", sigma=1.0)
    x, y = torch.randn(4, 1, 6, 6, dtype=torch.float64), torch.randint(2, (4,))
    g = local_gradient(net, injection, cross_entropy, x, y)
    h = 1e-6
    for channel in range(3):
        shift = torch.zeros(4, 3, dtype=torch.float64)
        shift[:, channel] = h
        ends = []
        for sign in (1, -1):
            with injection.shifted(sign * shift):
                ends.append(cross_entropy(net(x), y, reduction="none"))
        torch.testing.assert_close(g[:, channel], ((ends[0] - ends[1]) / (2 * h)).detach(), atol=1e-8, rtol=1e-6)


def test_both_sides_of_eq_2_agree_to_second_order(setting):
    net, injection, loss, x, y = setting
    eps = injection.draw(5).double()
    residuals = []
    for scale in (1e-2, 1e-3):
        sides = update_sides(*setting, scale * eps, lr=0.1)
        residuals.append(sides.residual)
    # What is left out is of third order, so relative to the first-order term it falls with eps^2.
    assert residuals[0] < 1e-2 and residuals[1] == pytest.approx(residuals[0] / 100, rel=0.2)
    assert sides.measured.shape == injection.weight.shape


def test_eq_2_has_no_half_before_its_hessian():
    # Quadratic loss, linear network: nothing beyond second order, so eq. 2 must hold exactly, without its 1/2.
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    injection = NoiseInjection(net, "0", sigma=2.0)
    x, y = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    eps = injection.draw(50).double()
    sides = update_sides(net, injection, mse_loss, x, y, eps, lr=0.3)
    assert sides.residual < 1e-12
    assert float((sides.measured - sides.gradient_term - sides.hessian_term / 2).norm()) > 0.1 * float(
        sides.measured.norm()
    )


def test_the_averages_of_eq_2_are_those_of_many_batches():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    injection = NoiseInjection(net, "0", sigma=0.05)
    x, y = torch.randn(64, 3, dtype=torch.float64), torch.randn(64, 2, dtype=torch.float64)
    draws = [update_sides(net, injection, mse_loss, x, y, injection.draw(64, seed=k).double(), 0.1) for k in range(400)]
    gradient = torch.stack([sides.gradient_term for sides in draws])
    # 400 draws: a deviation is known to 3.5 %, five of which are allowed; the mean Hessian term likewise by its spread.
    torch.testing.assert_close(gradient.std(0), draws[0].gradient_deviation, rtol=0.18, atol=0)
    moved = torch.stack([sides.hessian_term for sides in draws])
    error = moved.std(0) / math.sqrt(400)
    assert ((moved.mean(0) - draws[0].hessian_mean).abs() < 5 * error).all()


def test_the_linear_models_terms_are_those_of_a_torch_network():
    # One input, one hidden unit, one output, no biases: A~ and B~ of eq. 3 from eq. 2's two terms.
    model = linear.LinearModel(lr=0.05, batch_size=4000, target=1.5)
    start = linear.Weights(0.3, 1.2, 0.4)
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    injection = NoiseInjection(net, "0", sigma=2.0)
    with torch.no_grad():
        for parameter, value in ((net[0].weight, 0.3), (net[1].weight, 1.2), (injection.weight, 0.4)):
            parameter.fill_(value)
    x = torch.randn(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x / x.square().mean().sqrt()
    half = lambda outputs, targets: mse_loss(outputs, targets) / 2  # noqa: E731
    sides = update_sides(net, injection, half, x, 1.5 * x, injection.draw(4000).double(), 0.05)
    at = linear.terms(model, start)
    assert float(sides.gradient_deviation) == pytest.approx(float(at.gradient_noise.abs()) * 2.0)
    assert float(sides.hessian_mean) == pytest.approx(-float(at.decay_noise) * 2.0**2 * 0.4)
