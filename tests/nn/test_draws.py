"""The variates themselves against scipy's laws, far into their parameters. Fixed seeds; every Kolmogorov-Smirnov
p-value is held to 1e-5 (some 30 of them: 0.03 % false alarms for a seed drawn at random)."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from nvrm_fast.contract import laws
from nvrm_fast.contract.laws import GAMMA
from nvrm_fast.contract.layers import DirectionSettings, GammaConstants
from nvrm_fast.reference import direction_noise as reference
from nvrm_fast.reference.activation import Blocks, gamma_magnitude, sphere_coordinate
from nvrm_fast.reference.angles import BetaRotation, Projected, Rotation, Tangent, VonMisesFisher
from nvrm_fast.reference.philox import philox4x32
from nvrm_fast.reference.special_functions import exponential, negative_ln_of, normal_quantile

DRAWS = 60_000


def blocks(seed: int, shape=(1, 1, DRAWS), **place) -> Blocks:
    return Blocks(torch.Size(shape), torch.tensor([seed]), **{"stream": 3, "step": 0, "offset": 0, **place})


def law_of(draws: torch.Tensor, law) -> None:
    # Values on a grid of 2^-24 or of 2^-14 turns: far below what 60,000 draws resolve.
    assert scipy.stats.kstest(draws.double().numpy().ravel(), law.cdf).pvalue > 1e-5


def law_inside(draws: torch.Tensor, law, low: float, high: float) -> None:
    """Where float32 cannot tell values beyond low or high from each other: how many there are, and the law inside."""
    inside = (draws > low) & (draws < high)
    below, share = law.cdf(low), law.cdf(high) - law.cdf(low)
    assert abs(inside.double().mean().item() - share) < 5 * math.sqrt(share * (1 - share) / DRAWS)
    law_of(draws[inside], type("Inside", (), {"cdf": lambda self, x: (law.cdf(x) - below) / share})())


@pytest.mark.parametrize("dimension", [2, 3, 4, 7, 99, 1023])
def test_sphere_coordinate(dimension):
    half = (dimension - 1) / 2
    law_of(sphere_coordinate(blocks(dimension).words(0)[0], dimension), scipy.stats.beta(half, half, loc=-1, scale=2))


def test_sphere_in_one_dimension_is_a_sign():
    u = sphere_coordinate(blocks(1).words(0)[0], 1)
    assert set(u.unique().tolist()) == {-1.0, 1.0} and abs(u.mean().item()) < 5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("alpha", [1e-4, 0.1, 1.0, 3.0])
def test_gamma_magnitude(alpha):
    law_of(gamma_magnitude(blocks(7), alpha), scipy.stats.gamma(1 / alpha, scale=alpha))


@pytest.mark.parametrize("shape", [12.4, 50.0, 511.5, 1e5])
def test_proposals_taken_without_logarithms_would_be_accepted(shape):
    """ln of the acceptance rate, in float64, is above its bound for every proposal that a word can give."""
    constants = GammaConstants.of_shape(shape)
    assert constants.sure > 0
    x = np.linspace(-5.2, 5.2, 100_001)
    y = constants.c * x
    # d (1 - v + ln v) + x^2 / 2 with v = (1 + y)^3, and x^2 / 2 = 4.5 d y^2.
    slack = constants.d * (-3 * y + 1.5 * y**2 - y**3 + 3 * np.log1p(y))
    assert (slack >= -constants.sure * x**4 - 1e-9 * constants.d).all()
    assert GammaConstants.of_shape(12.0).sure == 0


def test_gamma_magnitude_of_next_to_no_shape():
    """Two in a hundred are below 1e-30 then."""
    law_inside(gamma_magnitude(blocks(7), 20.0), scipy.stats.gamma(1 / 20, scale=20), 1e-30, 1e30)


@pytest.mark.parametrize("n", [2, 3, 4, 10, 1024, 100_000])
def test_chi_of_projected_noise(n):
    along, chi = Projected.draw(blocks(n), torch.empty(0), n)
    law_of(chi, scipy.stats.chi(n - 1))
    law_of(along, scipy.stats.norm())
    assert abs(np.corrcoef(along.ravel(), chi.ravel())[0, 1]) < 5 / math.sqrt(DRAWS)


def angle_of(law, first, second=None, n=8, low=-math.pi / 2, high=math.pi / 2, seed=5):
    first = torch.tensor([first])
    second = None if second is None else torch.tensor([second])
    constants = law.constants(first, second, n, low, high)[:, None, :, None]
    cosine, sine, slopes = law.angle(law.draw(blocks(seed), constants, n), constants, low, high)
    assert cosine.isfinite().all() and sine.isfinite().all() and all(s.isfinite().all() for s in slopes)
    assert ((cosine**2 + sine**2 - 1).abs() < 1e-6).all()
    return torch.atan2(sine.double(), cosine.double())


ENDS = [(-math.pi / 2, math.pi / 2), (0.0, math.pi / 2)]


@pytest.mark.parametrize("low, high", ENDS)
@pytest.mark.parametrize("sigma", [1e-4, 0.05, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("part", [0.0, 1e-6, 0.4, 1.0])
def test_truncated_normal(low, high, sigma, part):
    """Also with the mean at the very ends, where appendix B warns of the inverse of the distribution function."""
    mean = low + part * (high - low)
    angle = angle_of(Rotation, mean, sigma, low=low, high=high)
    assert low - 1e-6 <= angle.min() and angle.max() <= high + 1e-6
    mean = float(torch.tensor(mean))  # as the constants hold it
    law_of(angle, scipy.stats.truncnorm((low - mean) / sigma, (high - mean) / sigma, loc=mean, scale=sigma))


@pytest.mark.parametrize("beta", [0.05, 0.2, 0.35, 0.5, 1.0, 3.27, 10.0, 1000.0])
def test_stretched_beta(beta):
    law = scipy.stats.beta(beta, beta, loc=-math.pi / 2, scale=math.pi)
    angle = angle_of(BetaRotation, beta)
    if beta < 0.5:
        law_inside(angle, law, -math.pi / 2 + 1e-5, math.pi / 2 - 1e-5)
    else:
        law_of(angle, law)


@pytest.mark.parametrize("n, kappa", [(2, 1.0), (2, 50.0), (3, 0.0), (3, 10.0), (8, 1e-3), (8, 1e5), (1024, 500.0)])
def test_von_mises_fisher_cosine(n, kappa):
    """Against the density (1 - t^2)^((n - 3) / 2) exp(kappa t), integrated over the angle."""
    angle = angle_of(VonMisesFisher, kappa, n=n).abs()
    width = 12 * math.sqrt(max(n, 2) / max(kappa, 1e-9))
    grid = np.linspace(0, min(math.pi, width), 200_001)
    log_density = scipy.special.xlogy(n - 2, np.abs(np.sin(grid))) + kappa * (np.cos(grid) - 1)
    density = np.exp(log_density - log_density.max())
    distribution = np.cumsum(density)
    law = type("Law", (), {"cdf": lambda self, x: np.interp(x, grid, distribution / distribution[-1])})()
    law_of(angle, law)


@pytest.mark.parametrize("law, sigma", [(Projected, 1e-4), (Projected, 1e4), (Tangent, 1e-4), (Tangent, 1e4)])
def test_extreme_projected_noise_is_finite(law, sigma):
    angle = angle_of(law, sigma, n=50)
    if sigma < 1:
        assert angle.abs().max() < 20 * sigma * math.sqrt(50)
    else:
        assert (angle.abs() - math.pi / 2).abs().max() < (0.2 if law is Tangent else math.pi)


def test_rejected_proposals_go_on_in_further_blocks():
    """The block of trial k is the element's plus k 2^56, so nothing overlaps and backward finds it again."""
    place = blocks(9, (4,), offset=2**40 + 3)
    words = place.words(5)
    element = torch.arange(4) + 2**40 + 3
    counter = (element & 0xFFFFFFFF, (element >> 32) + (5 << 24), 3, 0)
    assert all(torch.equal(a, b) for a, b in zip(words, philox4x32(counter, (9, 0))))


def test_words_of_one_block_are_independent():
    settings = DirectionSettings(0, 0, 0, laws.Projected.code, GAMMA, 9, 0.5, 0.0, 0.0, False)
    constants = Projected.constants(torch.ones(1), None, 9, 0.0, 0.0)
    xi, u, (along, chi) = reference.draw(torch.Size((1, 1, DRAWS)), constants, torch.tensor([3]), settings)
    columns = [x.double().numpy().ravel() for x in (xi, u, along, chi)]
    for i, a in enumerate(columns):
        for b in columns[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(DRAWS)
            assert abs(scipy.stats.spearmanr(np.abs(a - a.mean()), np.abs(b - b.mean())).statistic) < 5 / math.sqrt(
                DRAWS
            )


def test_elementary_functions():
    """Relative errors: a few units in the last place (2^-24 = 6e-8)."""
    y = torch.linspace(-79, 79, 100_001)
    grown, rest = exponential(y)
    assert ((grown.double() * y.double().exp()) - 1).abs().max() < 1.5e-7
    assert (rest.double() / -torch.expm1(-y.double()) - 1).abs().max() < 2e-7
    assert [x.item() for x in exponential(torch.zeros(1))] == [1.0, 0.0]
    x = torch.logspace(-30, 30, 100_001)
    assert (negative_ln_of(x).double() + x.double().log()).abs().max() < 1e-5
    near_one = 1 + torch.linspace(-0.3, 0.3, 10_001)
    truth = -near_one.double().log()
    assert ((negative_ln_of(near_one).double() - truth).abs() <= 2e-7 * truth.abs()).all()
    n = torch.arange(1, 2**24, 2, dtype=torch.float64)[:: 2**7]
    e, tails = n * 2.0**-23 - 1, n * 2.0**-22 * (1 - n * 2.0**-24)
    truth = torch.special.ndtri(n * 2.0**-24)
    error = (normal_quantile(e.float(), tails.float()).double() - truth).abs()
    assert (error <= 5e-7 * truth.abs() + 1e-9).all()
