"""The bounds against torch.distributions, direct minimization and arithmetic by hand."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from nvrm_fast.probe import (
    information_bound,
    kl_to_prior,
    mutual_information_bound,
    neural_variability,
    pac_bayes_bound,
    squared_distance,
    weight_count,
    zero_one_loss,
)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def flat(model):
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("b, sigma", [(0.01, 1.0), (0.3, 0.3), (2.0, 0.7)])
def test_kl_is_that_of_two_gaussians(model, b, sigma):
    theta, start = flat(model), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    for center, given in ((torch.zeros_like(theta), None), (flat(start), start)):
        wanted = kl_divergence(Normal(theta, b), Normal(center, sigma)).sum()
        assert kl_to_prior(model, b, sigma, given) == pytest.approx(float(wanted), rel=1e-12)
    assert kl_to_prior([theta], b, sigma) == pytest.approx(kl_to_prior(model, b, sigma), rel=1e-12)


def test_kl_falls_with_b_up_to_sigma(model):
    values = [kl_to_prior(model, b, 0.5) for b in (0.01, 0.1, 0.3, 0.5, 0.6, 1.0)]
    assert values[:4] == sorted(values[:4], reverse=True) and values[3:] == sorted(values[3:])


def test_counts_and_distances(model):
    theta = flat(model)
    assert weight_count(model) == len(theta) == 26
    assert squared_distance(model) == pytest.approx(float(theta @ theta), rel=1e-12)
    moved = [weight + 0.5 for weight in model.parameters()]
    assert squared_distance(moved, model) == pytest.approx(26 * 0.25, rel=1e-5)


def test_theorem_2_2_by_hand(model):
    data = torch.randn(50, 3), torch.randint(2, (50,))
    found = neural_variability(model, zero_one_loss, data, 0.2, samples=20)
    bound = pac_bayes_bound(model, found, sigma=0.5, failure_probability=0.1)
    errors = float((model(data[0]).argmax(1) != data[1]).double().mean())
    kl = float(kl_divergence(Normal(flat(model), 0.2), Normal(0.0, 0.5)).sum())
    assert bound.empirical_loss == pytest.approx(errors)
    assert bound.delta == max(abs(end) for end in found.interval)
    assert bound.complexity == pytest.approx(4 * math.sqrt((kl + math.log(100 / 0.1)) / 50), rel=1e-9)
    assert bound.bound == pytest.approx(errors + bound.complexity + bound.delta)
    assert bound.vacuous and bound.bound > 1
    doubled = pac_bayes_bound(model, found, sigma=0.5, failure_probability=0.1, largest_loss=2.0)
    assert doubled.complexity == pytest.approx(2 * bound.complexity)
    assert pac_bayes_bound(model, found, sigma=0.5, start=model).kl < bound.kl


def test_a_bound_that_is_not_vacuous():
    # One weight, many examples: the sign of x decides, and noise hardly ever turns the weight round.
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.linspace(-1, 1, 2000).unsqueeze(1)
    found = neural_variability(model, zero_one_loss, (x, (x[:, 0] < 0).long()), 0.2, samples=16, at_once=1)
    bound = pac_bayes_bound(model, found, sigma=1.0)
    assert not bound.vacuous and found.clean_loss == 0 and bound.bound < 0.35


def test_the_information_bound_is_eq_1_at_its_best_prior():
    distances, count, b = [3.0, 5.0], 40, 0.1
    bound = information_bound(distances, count, b)
    sigmas = torch.logspace(-2, 1, 200_001, dtype=torch.float64)
    kl = count * (torch.log(sigmas / b) + b * b / (2 * sigmas**2) - 0.5) + 4.0 / (2 * sigmas**2)
    assert bound == pytest.approx(float(kl.min()), rel=1e-8)
    weights = [torch.full((40,), math.sqrt(4.0 / 40), dtype=torch.float64)]
    assert bound <= kl_to_prior(weights, b, 0.33) and bound == information_bound(4.0, count, b)


def test_the_information_bound_holds_where_information_is_known():
    # theta = the mean of m unit Gaussian examples in n dimensions: I(theta + eps; S) = n / 2 ln(1 + 1 / (m b^2)).
    n, m, b = 200, 10, 0.3
    data = torch.randn(2000, m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distances = data.mean(1).square().sum(1).tolist()
    exact = n / 2 * math.log(1 + 1 / (m * b * b))
    # Of 2,000 runs the mean distance is known to 0.2 %; five times that are allowed, one seed in 1.7 million fails.
    assert information_bound(distances, n, b) == pytest.approx(exact, rel=0.01)
    # About any other center it is a bound, and not tight.
    shifted = (data.mean(1) - 0.5).square().sum(1).tolist()
    assert information_bound(shifted, n, b) > 1.2 * exact


def test_theorem_b_2_by_hand():
    bound = mutual_information_bound([2.0], 10, b=0.5, examples=1000, delta=0.02)
    information = 5 * math.log(1 + 2.0 / (10 * 0.25))
    assert bound.information == pytest.approx(information) and not bound.vacuous
    assert bound.bound == pytest.approx(math.sqrt(2 * 0.25 / 1000 * information) + 0.02)
    doubled = mutual_information_bound([2.0], 10, b=0.5, examples=1000, delta=0.02, largest_loss=2.0)
    assert doubled.gap == pytest.approx(2 * bound.gap)
    assert mutual_information_bound(1e9, 10**6, b=0.01, examples=100, delta=0.0).vacuous
    # The gap falls with b, given delta.
    gaps = [mutual_information_bound(2.0, 10, b=b, examples=1000, delta=0.0).gap for b in (0.01, 0.1, 1.0, 10.0)]
    assert gaps == sorted(gaps, reverse=True)


def test_bad_input_is_refused_by_name(model):
    data = torch.randn(5, 3), torch.randint(2, (5,))
    found = neural_variability(model, zero_one_loss, data, 0.2, samples=4)
    uniform = neural_variability(model, zero_one_loss, data, 0.2, samples=4, distribution="uniform")
    for call, says in (
        (lambda: kl_to_prior(model, 0.0, 1.0), "b must be finite and more than 0"),
        (lambda: kl_to_prior(model, 0.1, math.inf), "sigma must be finite and more than 0"),
        (lambda: kl_to_prior([], 0.1, 1.0), "there are no weights"),
        (lambda: squared_distance(model, [torch.zeros(3)]), "start has weights of other shapes"),
        (lambda: pac_bayes_bound(model, uniform, sigma=1.0), "for gaussian noise, variability has uniform"),
        (lambda: pac_bayes_bound(model, found, sigma=1.0, failure_probability=5), "failure_probability must be"),
        (lambda: pac_bayes_bound(model, found, sigma=1.0, largest_loss=0), "largest_loss must be"),
        (lambda: information_bound([], 4, 0.1), "squared_distances must be one number or more"),
        (lambda: information_bound(-1.0, 4, 0.1), "none negative"),
        (lambda: information_bound(1.0, 0, 0.1), "count must be"),
        (lambda: mutual_information_bound(1.0, 4, b=0.1, examples=9, delta=-1.0), "delta must be 0 or more"),
        (lambda: mutual_information_bound(1.0, 4, b=0.1, examples=0, delta=0.0), "examples must be"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
