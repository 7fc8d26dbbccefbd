"""The variational model: divergences against quadrature, the bound, pruning; and ensembles."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import nn

from nvrm_fast import nn as noisy


@pytest.mark.parametrize("sigma", [1e-4, 0.01, 0.3, 1.5, 30.0, 1e4])
@pytest.mark.parametrize("mu", [0.0, 1e-5, 0.5, 1.57, math.pi / 2])
def test_divergence_of_the_angle(mu, sigma):
    """Equation 39 against quadrature of q ln(q / p), relative 1e-6 or absolute 1e-9; with finite gradients."""
    high = math.pi / 2
    mu, sigma = (float(torch.tensor(value)) for value in (mu, sigma))  # as float32 holds them
    law = scipy.stats.truncnorm((0 - mu) / sigma, (high - mu) / sigma, loc=mu, scale=sigma)
    # By quantiles: E[ln q - ln p] = integral of ln(q(x(u)) high) over u, split where the ends are steep.
    nodes, weights = np.polynomial.legendre.leggauss(400)
    truth = 0.0
    for low_u, high_u in ((0, 1e-6), (1e-6, 1e-3), (1e-3, 0.999), (0.999, 1 - 1e-6), (1 - 1e-6, 1)):
        u = low_u + (nodes + 1) / 2 * (high_u - low_u)
        truth += np.sum(weights / 2 * (high_u - low_u) * (law.logpdf(law.ppf(u)) + math.log(high)))
    mean = torch.tensor([mu], requires_grad=True)
    deviation = torch.tensor([sigma], requires_grad=True)
    found = noisy.truncated_normal_divergence(mean, deviation, 0.0, high)
    found.sum().backward()
    assert mean.grad.isfinite().all() and deviation.grad.isfinite().all()
    assert found.item() >= 0
    assert abs(found.item() - truth) < max(2e-6 * abs(truth), 1e-9)


def test_a_uniform_posterior_has_no_divergence():
    wide = torch.tensor([1e2, 1e3, 1e6])
    found = noisy.truncated_normal_divergence(torch.full((3,), 0.5), wide, 0.0, math.pi / 2)
    assert (found >= 0).all() and (found.diff() < 0).all() and found[-1] < 1e-20


def test_divergence_of_the_magnitude():
    """Equation 37's fit against quadrature of KL(N(1, alpha) || log-uniform) up to its constant: within 0.015, which is
    how good the published fit is; derivative finite and negative at both ends."""

    def truth(alpha):
        # E ln|eps| - ln(alpha) / 2, with the constant that makes it 0 for alpha -> infinity.
        root = math.sqrt(alpha)
        value = scipy.integrate.quad(
            lambda e: scipy.stats.norm.pdf(e) * math.log(abs(e + 1 / root)), -12, 12, points=[-1 / root], limit=400
        )[0]
        at_infinity = -(np.euler_gamma + math.log(2)) / 2
        return value - at_infinity

    for alpha in (0.01, 0.1, 0.5, 1.0, 3.0, 20.0, 1000.0):
        found = noisy.log_uniform_divergence(torch.tensor(math.log(alpha), dtype=torch.float64)).item()
        assert abs(found - truth(alpha)) < 0.015
    log_alpha = torch.tensor([-100.0, -8.0, 0.0, 8.0, 100.0], requires_grad=True)
    values = noisy.log_uniform_divergence(log_alpha)
    values.sum().backward()
    assert values.isfinite().all() and (values.diff() < 0).all() and values[-1] < 1e-40
    assert log_alpha.grad.isfinite().all() and (log_alpha.grad <= 0).all()


def test_mean_weight_is_the_mean_of_sampled_weights():
    """E[weight] = m E[cos angle] v, by 200,000 draws of unit inputs: 5 standard errors."""
    torch.manual_seed(0)
    draws = 200_000
    layer = noisy.VariationalLinear(3, 1, bias=False, alpha=0.3, angle_mean=0.8, angle_deviation=0.5)
    with torch.no_grad():
        for i in range(3):
            y = layer(torch.eye(3)[i].expand(draws, 3)).double()
            assert abs(y.mean() - layer.mean_weight()[0, i]) < 5 * y.std() / math.sqrt(draws)
    law = scipy.stats.truncnorm(-0.8 / 0.5, (math.pi / 2 - 0.8) / 0.5, loc=0.8, scale=0.5)
    assert abs(layer._mean_cosine().item() - law.expect(math.cos)) < 1e-5
    narrow = noisy.VariationalLinear(3, 1, angle_mean=0.3, angle_deviation=1e-5)
    assert abs(narrow._mean_cosine().item() - math.cos(0.3)) < 1e-5


@pytest.mark.parametrize("options", [{}, dict(sampling="shared"), dict(sampling="flipout", normalize="input")], ids=str)
def test_the_bound_reaches_every_parameter(options):
    torch.manual_seed(0)
    model = nn.Sequential(noisy.VariationalLinear(6, 5, **options), nn.ReLU(), noisy.VariationalLinear(5, 3))
    y = torch.tensor([0, 1, 2, 0])
    likelihood = nn.functional.cross_entropy(model(torch.randn(4, 6)), y)
    loss = noisy.elbo_loss(likelihood, model, data_size=10, weight=noisy.warm_up(5, 10))
    divergence = sum(layer.divergence() for layer in model if isinstance(layer, noisy.VariationalLinear))
    torch.testing.assert_close(loss, likelihood + 0.05 * divergence)
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name
    assert [noisy.warm_up(k, 10) for k in (0, 5, 20)] == [0.0, 0.5, 1.0] and noisy.warm_up(0, 0) == 1.0
    assert noisy.divergence(nn.Linear(2, 2)) == 0.0
    for bad in (dict(data_size=0), dict(data_size=3, weight=-1.0)):
        with pytest.raises(ValueError, match="must"):
            noisy.elbo_loss(likelihood, model, **bad)
    with pytest.raises(ValueError, match="must not be negative"):
        noisy.warm_up(-1, 3)


def test_shared_layers_count_once():
    layer = noisy.VariationalLinear(3, 3)
    torch.testing.assert_close(noisy.divergence(nn.Sequential(layer, nn.ReLU(), layer)), layer.divergence())


def test_the_divergence_widens_the_posterior():
    """Without data only the prior speaks: gradients of the divergence make the posterior wide."""
    torch.manual_seed(0)
    layer = noisy.VariationalLinear(4, 1, alpha=1e-4, angle_mean=0.05, angle_deviation=0.05)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    x = torch.randn(256, 4)
    before = noisy.divergence(layer).item()
    for _ in range(60):
        optimizer.zero_grad()
        noisy.elbo_loss(0 * layer(x).sum(), layer, data_size=1).backward()
        optimizer.step()
    assert noisy.divergence(layer).item() < 0.5 * before
    assert layer.log_alpha().item() > math.log(1e-4) + 1


def test_pruning_and_compression():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), noisy.VariationalLinear(6, 8), nn.ReLU(), noisy.VariationalLinear(8, 7, bias=False), nn.Sigmoid(),
        noisy.VariationalLinear(7, 3, sampling="flipout", normalize="input"),
    )  # fmt: skip
    with torch.no_grad():
        model[1].log_spread[[0, 5]] += 5
        model[3].log_spread[2] += 5
        model[5].log_spread[4] += 5
    assert noisy.collapsed(model[1]).tolist() == [True] + 4 * [False] + [True] + 2 * [False]
    small = noisy.compress(model)
    assert noisy.prune(model) == {"1": 2, "3": 1, "5": 1}
    x = torch.randn(10, 2, 3)
    with noisy.noise_mode(model, "mean"):
        torch.testing.assert_close(small(x), model(x))
    assert [tuple(m.weight.shape) for m in small if isinstance(m, nn.Linear)] == [(6, 6), (5, 6), (3, 5)]
    assert model(x).isfinite().all()
    with pytest.raises(TypeError, match="compress knows"):
        noisy.compress(nn.Sequential(nn.Linear(2, 2)))


def test_samples_in_one_pass():
    torch.manual_seed(0)
    model = noisy.to_noisy(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), direction=noisy.Projected(0.1))
    x = torch.randn(5, 4)
    logits = noisy.mc(model, x, 7)
    assert logits.shape == (7, 5, 3) and len({tuple(z.flatten().tolist()) for z in logits}) == 7
    noisy.set_noise_mode(model, "fixed", seed=2)
    fixed = noisy.mc(model, x, 3)
    assert torch.equal(fixed, noisy.mc(model, x, 3)) and torch.equal(fixed[0], model(x))
    assert not torch.equal(fixed[0], fixed[1])
    with noisy.noise_mode(model, "fixed", seed=3):
        assert torch.equal(fixed[1], model(x))
    shared = noisy.to_noisy(nn.Linear(4, 3), direction=noisy.Projected(0.1), sampling="shared")
    y = noisy.mc(shared, torch.ones(2, 4), 3)
    torch.testing.assert_close(y[:, 0], y[:, 1])  # objects of one sample share its weights
    assert (y[0] - y[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="samples must be at least 1"):
        noisy.mc(model, x, 0)


def test_what_an_ensemble_says():
    """Two samples that are sure of different classes: all uncertainty is disagreement; two that agree: none is."""
    sure = torch.tensor([[[50.0, 0.0]], [[0.0, 50.0]]])
    mean, entropy, information = noisy.prediction(sure)
    torch.testing.assert_close(mean, torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(entropy, torch.tensor([math.log(2)]))
    torch.testing.assert_close(information, entropy)
    unsure = torch.zeros(2, 1, 4)
    mean, entropy, information = noisy.prediction(unsure)
    torch.testing.assert_close(entropy, torch.tensor([math.log(4)]))
    assert information.item() == 0
    assert noisy.prediction(torch.tensor([[[-torch.inf, 0.0]]])).entropy.item() == 0
    model = noisy.to_noisy(nn.Linear(4, 3), direction=noisy.Projected(0.1))
    assert not noisy.predict(model, torch.randn(2, 4), samples=4).probabilities.requires_grad
