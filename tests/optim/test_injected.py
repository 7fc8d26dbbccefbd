"""PerturbedSGD is the paper's algorithm 2; SGLD samples the posterior it should."""

import math

import pytest
import torch
from training import Model, loss_of, train, weights

from nvrm_fast import SGLD, PerturbedSGD, noise


def test_algorithm_2():
    """theta <- theta - lr (g + eps), in float64, against the line as the paper has it."""
    model, twin = Model(torch.float64), Model(torch.float64)
    optimizer = PerturbedSGD(model.parameters(), lr=0.1, variability=0.5, seed=3)
    train(model, optimizer, 5)
    for t in range(1, 6):
        twin.zero_grad()
        loss_of(twin, t - 1).backward()
        with torch.no_grad():
            for stream, p in enumerate(twin.parameters()):
                if p.grad is not None:
                    eps = noise(p.numel(), seed=3, stream=stream, step=t, scale=0.5).view(p.shape)
                    p -= 0.1 * (p.grad + eps.double())
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # lr * b is rounded to float32 once


def test_noise_stays_in_masters():
    model = Model(torch.bfloat16)
    optimizer = PerturbedSGD(model.parameters(), lr=0.1, variability=0.5)
    train(model, optimizer, 3)
    for p in model.parameters():
        if p in optimizer.state:
            assert torch.equal(p, optimizer.state[p]["master_param"].bfloat16())
    assert not hasattr(optimizer, "denoise")


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_sgld_samples_a_gaussian_posterior(masters):
    """U = x^2 / (2 s^2) at temperature T has the law N(0, T s^2).

    For a quadratic, the chain x <- (1 - lr / s^2) x + N(0, 2 lr T) is Gaussian with variance
    T s^2 / (1 - lr / (2 s^2)), which is what is checked, over 10^5 independent chains: the mean of squares has a
    standard error of sqrt(2 / n), held to 5 of them (false alarms: 6e-7).
    """
    n, s2, lr, temperature = 100_000, 4.0, 0.8, 0.5
    x = torch.nn.Parameter(torch.zeros(n))
    optimizer = SGLD([x], lr=lr, temperature=temperature, seed=5, master_weights=masters)
    for _ in range(60):  # (1 - 0.2)^60: forgets its start
        x.grad = x.detach() / s2
        optimizer.step()
    variance = temperature * s2 / (1 - lr / (2 * s2))
    assert abs(x.detach().double().square().mean() / variance - 1) < 5 * math.sqrt(2 / n)
    assert abs(x.detach().double().mean()) < 5 * math.sqrt(variance / n)


def test_zero_temperature_and_zero_variability_are_sgd():
    ends = []
    for make in (
        lambda p: SGLD(p, lr=0.1, temperature=0.0, weight_decay=0.01),
        lambda p: PerturbedSGD(p, lr=0.1, variability=0.0, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    ):
        model = Model()
        train(model, make(model.parameters()), 3)
        ends.append(weights(model))
    for end in ends[:2]:
        for name in end:
            torch.testing.assert_close(end[name], ends[2][name], rtol=1e-5, atol=1e-6)
