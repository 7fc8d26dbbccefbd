"""Cycled noise has the law it claims, turn by turn, and its steps are as independent as they claim. Fixed seeds: a test
passes or fails for good.

False-alarm rates are what the chance of failing would be for a correct generator and a seed drawn at random: every
moment and correlation is held to 5 standard errors (6e-7 each), every Kolmogorov-Smirnov and chi-square p-value to
1e-5. That makes 5e-4 for all of this file together (about 25 p-values and 250 correlations and moments).
"""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from noise_laws import LAWS, VARYING, check_moments

from nvrm_fast.contract.arguments import ReperturbArguments
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.contract.record import Record, pack
from nvrm_fast.ops.step import reperturb_

N = 2**18
TURNS = range(4)
everything = pytest.mark.parametrize("distribution", LAWS)


def draw(distribution: str, number: int, turn: int) -> np.ndarray:
    """Noise of unit standard deviation, as the operator puts it on weights of 0."""
    weights = torch.zeros(N)

    def record(scale: float) -> torch.Tensor:
        return torch.tensor(pack(Record(scale, 77, DISTRIBUTIONS[distribution], 5, number, turn, 0, N)))

    reperturb_(ReperturbArguments([weights], [], [record(0.0)], [record(1.0)], [0]))
    return weights.double().numpy() / LAWS[distribution][1]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """In standard errors of independent values."""
    return float((a * b).mean() / (a.std() * b.std()) * math.sqrt(len(a)))


@everything
@pytest.mark.parametrize("turn", TURNS)
def test_law_of_each_turn(distribution, turn):
    law, deviation, _ = LAWS[distribution]
    x = draw(distribution, 1, turn)
    check_moments(distribution, x)
    if distribution in VARYING:
        assert scipy.stats.kstest(x[:50_000] * deviation, law.cdf).pvalue > 1e-5
    else:
        assert set(np.unique(x)) == {-1.0, 1.0}


@everything
def test_consecutive_steps_of_an_element_are_independent(distribution):
    """Values, squares and signs are uncorrelated, within a cycle and over its end; and all cells of a 16 by 16 table of
    both steps' quantiles are met alike."""
    law, deviation, _ = LAWS[distribution]
    cycle = [draw(distribution, 1, turn) for turn in TURNS] + [draw(distribution, 2, 0)]
    for a, b in itertools.pairwise(cycle):
        assert abs(correlation(a, b)) < 5
        assert abs(correlation(np.sign(a), np.sign(b))) < 5
        if distribution not in VARYING:
            continue
        assert abs(correlation(a**2 - 1, b**2 - 1)) < 5
        assert abs(correlation(a, b**2 - 1)) < 5 and abs(correlation(a**2 - 1, b)) < 5
        cells = [np.minimum((law.cdf(x * deviation) * 16).astype(int), 15) for x in (a, b)]
        counts = np.bincount(cells[0] * 16 + cells[1], minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > 1e-5


@everything
def test_four_steps_sum_to_zero(distribution):
    cycle = [draw(distribution, 1, turn) for turn in TURNS]
    assert np.array_equal(cycle[2], -cycle[0]) and np.array_equal(cycle[3], -cycle[1])
    assert not ((cycle[0] + cycle[2]) + (cycle[1] + cycle[3])).any()
    # And no three of them do.
    assert (np.abs((cycle[0] + cycle[2]) + cycle[1]) > 0).all()


@everything
def test_no_correlation_between_cycles(distribution):
    """Any turn of a draw with any of another, of the same elements and of the two that share a word."""
    for number in (2, 3):
        for mine, other in itertools.product(TURNS[:2], TURNS):  # the third and fourth are the first two, negated
            a, b = draw(distribution, 1, mine), draw(distribution, number, other)
            assert abs(correlation(a, b)) < 5
            if distribution in VARYING:
                assert abs(correlation(a**2 - 1, b**2 - 1)) < 5


@everything
def test_elements_at_one_step_are_independent(distribution):
    """Also the two of one word, 16 apart; only across steps do these two have values in common."""
    for turn in TURNS:
        x = draw(distribution, 1, turn)
        for distance in (1, 16, 32):
            a, b = x[:-distance], x[distance:]
            assert abs(correlation(a, b)) < 5
            if distribution in VARYING:
                assert abs(correlation(a**2 - 1, b**2 - 1)) < 5
    first = draw(distribution, 1, 0).reshape(-1, 2, 16)
    second = draw(distribution, 1, 1).reshape(-1, 2, 16)
    assert np.array_equal(second[:, 0], -first[:, 1]) and np.array_equal(second[:, 1], first[:, 0])
