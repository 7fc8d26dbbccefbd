"""Local sampling has the law of weight-space sampling. Seeds are fixed: a test passes or fails for good.

False-alarm rates, for correct code and a seed drawn at random: Kolmogorov-Smirnov p-values are held to 1e-5, means and
variances to 5 standard errors (6e-7 each); some 100 comparisons in all, so 0.1 % together. With 40,000 draws on both
sides the KS test misses a shift of 4 % of a standard deviation less than once in a hundred times.
"""

import math

import numpy as np
import pytest
import scipy.stats
import torch
import weight_space

from nvrm_fast import nn as noisy

DRAWS = 40_000
LENGTHS = (2, 3, 4, 8, 100, 1024)


def draws_of(n: int) -> int:
    return DRAWS if n <= 100 else 5_000


def local_activations(direction, magnitude, v, x, g, draws, **options):
    layer = noisy.DirectionLinear(len(v), 1, bias=False, direction=direction, magnitude=magnitude, **options)
    with torch.no_grad():
        layer.weight_v.copy_(3.0 * torch.from_numpy(v))
        layer.weight_g.fill_(g)
        return layer(torch.from_numpy(x).float().expand(draws, -1)).double().numpy().ravel()


def vector_and_input(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    v, x = generator.standard_normal((2, n))
    return v / np.linalg.norm(v), x


def same_law(a: np.ndarray, b: np.ndarray) -> None:
    assert scipy.stats.ks_2samp(a, b).pvalue > 1e-5
    error = math.hypot(a.std() / math.sqrt(len(a)), b.std() / math.sqrt(len(b)))
    assert abs(a.mean() - b.mean()) < 5 * error
    squares = [(c - c.mean()) ** 2 for c in (a, b)]
    error = math.hypot(*(c.std() / math.sqrt(len(c)) for c in squares))
    assert abs(squares[0].mean() - squares[1].mean()) < 5 * error


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("direction", weight_space.DIRECTIONS)
def test_direction_noise(direction, n):
    torch.manual_seed(n)
    v, x = vector_and_input(n)
    noise = weight_space.DIRECTIONS[direction](n)
    ours = local_activations(noise, None, v, x, 1.5, draws_of(n))
    same_law(ours, weight_space.activations(noise, None, v, x, 1.5, draws_of(n), seed=n + 1))


@pytest.mark.parametrize("magnitude", ["normal", "gamma", "gamma, spiky"])
@pytest.mark.parametrize("direction", ["projected", "rotation", "none"])
def test_magnitude_noise(direction, magnitude):
    torch.manual_seed(7)
    v, x = vector_and_input(8)
    noise = None if direction == "none" else weight_space.DIRECTIONS[direction](8)
    of_weights = noisy.Rotation(1e-7) if noise is None else noise
    ours = local_activations(noise, weight_space.MAGNITUDES[magnitude], v, x, -2.0, DRAWS)
    same_law(ours, weight_space.activations(of_weights, weight_space.MAGNITUDES[magnitude], v, x, -2.0, DRAWS, seed=8))


@pytest.mark.parametrize("direction", ["projected", "tangent", "rotation, one-sided", "von Mises-Fisher"])
@pytest.mark.parametrize("sampling", ["shared", "batch", "flipout"])
def test_one_activation_of_the_other_samplings(direction, sampling):
    """Each activation on its own has the same law there too: many neurons of one weight vector, one object."""
    torch.manual_seed(3)
    v, x = vector_and_input(6)
    noise = weight_space.DIRECTIONS[direction](6)
    layer = noisy.DirectionLinear(6, DRAWS, bias=False, direction=noise, sampling=sampling)
    with torch.no_grad():
        layer.weight_v.copy_(torch.from_numpy(v).expand(DRAWS, -1))
        layer.weight_g.fill_(1.5)
        ours = layer(torch.from_numpy(x).float()[None]).double().numpy().ravel()
    same_law(ours, weight_space.activations(noise, None, v, x, 1.5, DRAWS, seed=4))


@pytest.mark.parametrize("sampling", ["shared", "batch", "flipout"])
def test_input_units(sampling):
    """Weight vectors of input units (section 4.3), drawn whole. A wide layer serves as many draws: each object has its
    own three inputs, so that no two objects meet the same weight vector."""
    torch.manual_seed(5)
    units, outputs, objects, passes = 3, 4, 400, 10
    draws = objects * passes
    generator = np.random.default_rng(1)
    v, x = generator.standard_normal((outputs, units)), generator.standard_normal(units)
    noise, magnitude = noisy.Rotation(0.5, mean=0.7, low=0.0), noisy.NormalMagnitude(0.2)
    layer = noisy.DirectionLinear(
        units * objects, outputs, bias=False, direction=noise, magnitude=magnitude, sampling=sampling, normalize="input"
    )
    with torch.no_grad():
        layer.weight_v.copy_(torch.from_numpy(v).repeat(1, objects))
        layer.weight_g.fill_(1.2)
        own_inputs = torch.block_diag(*[torch.from_numpy(x).float()[None]] * objects)
        ours = torch.cat([layer(own_inputs) for _ in range(passes)]).double().numpy()
    theirs = np.zeros((draws, outputs))
    for i in range(units):
        unit = v[:, i] / np.linalg.norm(v[:, i])
        turned = weight_space.directions(noise, unit, draws, generator)
        theirs += 1.2 * x[i] * weight_space.magnitudes(magnitude, draws, generator)[:, None] * turned
    for j in range(outputs):
        same_law(ours[:, j], theirs[:, j])
    same_law(ours[:, 0] + ours[:, 1] - ours[:, 2], theirs[:, 0] + theirs[:, 1] - theirs[:, 2])


def test_convolution_at_each_position():
    """Positions have the law of the weights' noise on the patch they see, at a padded corner too, in each group."""
    torch.manual_seed(11)
    layer = noisy.DirectionConv2d(4, 2, 3, padding=1, groups=2, bias=False, direction=noisy.Projected(0.2))
    image = torch.randn(4, 3, 3)
    with torch.no_grad():
        y = layer(image.expand(20_000, -1, -1, -1)).double().numpy()
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1)).double().numpy()
    for channel, row, column in ((0, 1, 1), (1, 0, 0), (0, 2, 1)):
        patch = padded[2 * channel : 2 * channel + 2, row : row + 3, column : column + 3].ravel()
        v = layer.weight_v[channel].detach().double().flatten().numpy()
        g = np.linalg.norm(v)
        theirs = weight_space.activations(layer.direction, None, v / g, patch, g, 20_000, seed=channel)
        same_law(y[:, channel, row, column], theirs)


@pytest.mark.parametrize("direction", ["projected", "rotation", "von Mises-Fisher"])
def test_signal_noise(direction):
    """Noise on the signal is weight noise on it: projections of the noisy signal onto a fixed vector."""
    torch.manual_seed(13)
    v, x = vector_and_input(8)
    noise, magnitude = weight_space.DIRECTIONS[direction](8), noisy.GammaMagnitude(0.3)
    layer = noisy.SignalNoise(noise, magnitude)
    signal = layer(torch.from_numpy(x).float().expand(DRAWS, -1)).double().numpy()
    length = np.linalg.norm(x)
    same_law(signal @ v, weight_space.activations(noise, magnitude, x / length, v, length, DRAWS, seed=14))


def test_gaussian_noise_on_weights():
    """Equation 44 against weights drawn whole, for a dense layer and a convolution."""
    torch.manual_seed(17)
    generator = np.random.default_rng(2)
    alpha = 0.4
    dense = noisy.GaussianDropoutLinear(5, 1, alpha=alpha)
    convolution = noisy.GaussianDropoutConv1d(1, 1, 5, alpha=alpha)
    x = torch.randn(5)
    with torch.no_grad():
        for layer, inputs in ((dense, x.expand(DRAWS, 5)), (convolution, x.expand(DRAWS, 1, 5))):
            w = layer.weight.double().numpy().ravel()
            noise = 1 + math.sqrt(alpha) * generator.standard_normal((DRAWS, 5))
            theirs = (w * noise) @ x.double().numpy() + layer.bias.item()
            same_law(layer(inputs).double().numpy().ravel(), theirs)
