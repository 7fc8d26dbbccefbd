"""The noise has the law it claims. Fixed seeds: a test passes or fails for good.

False-alarm rates are what the chance of failing would be for a correct generator and a seed drawn at random:
every moment and correlation is held to 5 standard errors (6e-7 each), every Kolmogorov-Smirnov p-value to 1e-5.
"""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from noise_laws import LAWS, VARYING, check_moments

from nvrm_fast import noise
from nvrm_fast.contract.distributions import DISTRIBUTIONS

N = 2**20
everything = pytest.mark.parametrize("distribution", LAWS)


def test_every_distribution_is_tried():
    assert set(LAWS) == set(DISTRIBUTIONS)


def draw(distribution: str, **where) -> np.ndarray:
    return noise(N, seed=2021, distribution=distribution, **where).double().numpy()


@everything
def test_moments(distribution):
    check_moments(distribution, draw(distribution) / LAWS[distribution][1])


@pytest.mark.parametrize("distribution", VARYING)
@pytest.mark.parametrize("lane", range(8))
def test_law_of_each_lane(distribution, lane):
    """Each of a block's eight values comes from other bits. 16-bit values have steps, so 50,000 draws are tested:
    the discreteness (3e-5) stays far below the test's resolution (1e-2)."""
    x = draw(distribution, stream=3).reshape(-1, 8, 16)[:, lane].ravel()[:50_000]
    assert scipy.stats.kstest(x, LAWS[distribution][0].cdf).pvalue > 1e-5


@pytest.mark.parametrize("lane", range(8))
def test_signs_of_each_lane(lane):
    """Rademacher noise is 1 or -1, as often; sixteen neighbors' signs make a number, and all numbers come alike."""
    x = draw("rademacher", stream=3).reshape(-1, 8, 16)[:, lane]
    assert set(x.ravel()) == {-1.0, 1.0}
    assert scipy.stats.binomtest(int((x > 0).sum()), x.size).pvalue > 1e-5
    patterns = np.bincount((x[:, :8] > 0) @ 2 ** np.arange(8), minlength=256)
    assert scipy.stats.chisquare(patterns).pvalue > 1e-5


def test_signs_are_those_of_laplace_noise():
    """Anti-PGD's noise takes the bits that give Laplace noise its sign."""
    assert np.array_equal(draw("rademacher", step=4), np.sign(draw("laplace", step=4)))


@everything
def test_neighbours_are_uncorrelated(distribution):
    _, deviation, _ = LAWS[distribution]
    x = draw(distribution, stream=5) / deviation
    for distance in (1, 2, 15, 16, 17, 32, 64, 112, 127, 128, 256):
        pairs = [(x[:-distance], x[distance:])]
        if distribution in VARYING:
            pairs.append((x[:-distance] ** 2 - 1, x[distance:] ** 2 - 1))
        for a, b in pairs:
            assert abs((a * b).mean()) < 5 * np.std(a) * np.std(b) / math.sqrt(len(a))


@everything
def test_streams_steps_and_seeds_are_independent(distribution):
    """Two same-shape layers, or one at two steps, never share noise: squares are compared too."""
    arguments = [dict(stream=i) for i in range(4)] + [dict(step=i) for i in range(1, 4)]
    draws = [noise(N // 4, seed=9, distribution=distribution, **a).double().numpy() for a in arguments]
    draws += [noise(N // 4, seed=s, distribution=distribution).double().numpy() for s in (10, 9 + 2**32, 2**63)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))
            if distribution in VARYING:
                assert abs(np.corrcoef(a**2, b**2)[0, 1]) < 5 / math.sqrt(len(a))


def test_gaussian_pairs_are_isotropic():
    """The two values of a word share a radius; they are independent if the angle is uniform and independent of it."""
    x = noise(N, seed=11).double().view(-1, 4, 2, 16)
    first, second = x[:, :, 0].reshape(-1), x[:, :, 1].reshape(-1)
    angle = (torch.atan2(second, first) / (2 * math.pi)).numpy() + 0.5
    radius = (first**2 + second**2).numpy()
    assert scipy.stats.kstest(angle[:50_000], "uniform").pvalue > 1e-5
    assert scipy.stats.kstest(np.exp(-radius / 2)[:50_000], "uniform").pvalue > 1e-5
    assert abs(np.corrcoef(np.cos(2 * np.pi * angle), radius)[0, 1]) < 5 / math.sqrt(len(radius))
