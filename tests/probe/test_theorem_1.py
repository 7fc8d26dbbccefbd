"""Theorem 1 (Levi et al. 2022, appendix C): mean and variance of a batch's average of q eps^n.

As printed the variance falls as 1 / sqrt(B); equation 16, which the proof ends with, has 1 / B, and equation 10 lacks
the square of its second term. The mean over the draws of eps that a node makes decides.
"""

import math

import pytest
import torch

from nvrm_fast.probe import NoiseInjection

SIGMA, BATCHES = 0.5, 20_000


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("batch", [4, 64])
def test_variance_falls_as_one_over_the_batch(n, batch):
    """Within five standard errors of the mean and of the variance, which the draws themselves give: a false alarm in
    1.7 million for each of the two."""
    torch.manual_seed(0)
    node = NoiseInjection(torch.nn.Sequential(torch.nn.Linear(2, 2)), "0", SIGMA)
    eps = node.draw(BATCHES * batch, seed=n)[:, 0].double()
    q = 1 + torch.empty(BATCHES * batch, dtype=torch.float64).exponential_()  # <q> = 2, Q^2 = <q^2> = 5
    means = (q * eps**n).view(BATCHES, batch).mean(1)
    moment = lambda k: 0.0 if k % 2 else SIGMA**k * math.prod(range(1, k, 2))  # noqa: E731
    expected = 2 * moment(n)
    assert abs(float(means.mean()) - expected) < 5 * float(means.std()) / math.sqrt(BATCHES)
    variance = 5 * moment(2 * n) - (2 * moment(n)) ** 2
    squares = (means - means.mean()) ** 2
    error = float(squares.std()) / math.sqrt(BATCHES)
    assert abs(float(squares.mean()) - variance / batch) < 5 * error
    assert abs(float(squares.mean()) - variance / math.sqrt(batch)) > 20 * error  # as it is printed
    without_square = (5 * moment(2 * n) - 2 * moment(n)) / batch  # equation 10
    assert n % 2 or abs(float(squares.mean()) - without_square) > 5 * error
