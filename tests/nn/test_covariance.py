"""Who shares noise with whom: covariances across objects and neurons, in each sampling.

Each correlation of independent values is held to 5 standard errors (false alarms: 6e-7 each, some 40 of them).
"""

import math

import numpy as np
import pytest
import scipy.stats
import torch
import weight_space

from nvrm_fast import nn as noisy

NEURONS = 20_000


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def uncorrelated(a, b):
    """Neither values nor squares: noise that differs by its sign alone would show in the squares."""
    bound = 5 / math.sqrt(len(a))
    assert abs(correlation(a, b)) < bound
    assert abs(correlation((a - a.mean()) ** 2, (b - b.mean()) ** 2)) < 3 * bound


def equal_neurons(n, **noise):
    """A layer whose neurons all have one weight vector: as many draws of its noise."""
    layer = noisy.DirectionLinear(n, NEURONS, bias=False, **noise)
    with torch.no_grad():
        layer.weight_v.copy_(layer.weight_v[:1].clone().expand_as(layer.weight_v))
        layer._set_magnitudes()
    return layer


@pytest.mark.parametrize("direction", weight_space.DIRECTIONS)
def test_local_noise_is_independent_across_objects_and_neurons(direction):
    torch.manual_seed(1)
    layer = equal_neurons(6, direction=weight_space.DIRECTIONS[direction](6), magnitude=noisy.NormalMagnitude(0.1))
    x = torch.randn(1, 6).expand(3, 6)
    y = layer(x).detach().double().numpy()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        uncorrelated(y[a], y[b])
    for distance in (1, 8, 16, 128):
        uncorrelated(y[0, distance:], y[0, :-distance])


def test_two_layers_and_two_passes_share_nothing():
    torch.manual_seed(2)
    layer = equal_neurons(6, direction=noisy.Projected(0.1))
    other = equal_neurons(6, direction=noisy.Projected(0.1))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 6)
    first, second = layer(x)[0].detach().numpy(), layer(x)[0].detach().numpy()
    uncorrelated(first, second)
    model = torch.nn.ModuleDict({"a": layer, "b": other})
    with noisy.noise_mode(model, "fixed", seed=5):
        uncorrelated(layer(x)[0].detach().numpy(), other(x)[0].detach().numpy())
    assert layer.stream == other.stream == 0 and layer.mode == "sample"


def test_shared_rotation_has_the_covariance_of_one_plane_for_the_batch():
    """Cov(y1, y2) = g^2 E[sin]^2 (x1.x2 - s1 s2) / (n - 1): angles differ by object, the plane does not (eq. 48)."""
    torch.manual_seed(3)
    n, noise = 5, noisy.Rotation(0.4, mean=0.8, low=0.0)
    layer = equal_neurons(n, direction=noise, sampling="shared")
    x = torch.randn(2, n)
    y = layer(x).detach().double()
    law = scipy.stats.truncnorm(-0.8 / 0.4, (math.pi / 2 - 0.8) / 0.4, loc=0.8, scale=0.4)
    unit = (layer.weight_v[0] / layer.weight_v[0].norm()).detach()
    s1, s2 = (x @ unit).tolist()
    g = layer.weight_g[0, 0].item()
    expected = g**2 * law.expect(math.sin) ** 2 * (float(x[0] @ x[1]) - s1 * s2) / (n - 1)
    found = (y[0] - y[0].mean()) * (y[1] - y[1].mean())
    assert abs(expected) > 20 * found.std().item() / math.sqrt(NEURONS)  # or the test would have nothing to find
    assert abs(found.mean().item() - expected) < 5 * found.std().item() / math.sqrt(NEURONS)
    uncorrelated(y[0, 1:].numpy(), y[0, :-1].numpy())


@pytest.mark.parametrize("direction", ["projected", "tangent", "von Mises-Fisher"])
def test_shared_gaussian_noise_is_one_weight_for_the_batch(direction):
    """Equal objects get equal activations, and opposite ones opposite."""
    torch.manual_seed(4)
    layer = equal_neurons(6, direction=weight_space.DIRECTIONS[direction](6), sampling="shared")
    x = torch.randn(1, 6)
    y = layer(torch.cat([x, x, -x])).detach()
    # Up to rounding: the matrix product may treat rows differently.
    torch.testing.assert_close(y[0], y[1])
    torch.testing.assert_close(y[0], -y[2])


@pytest.mark.parametrize("direction", ["rotation, one-sided", "rotation", "projected", "von Mises-Fisher"])
def test_batch_sampling_turns_each_weight_vector_once(direction):
    """The layer is linear in the objects then, whatever the law: equal objects equal, opposite ones opposite, sums of
    objects sums; and neurons are turned by angles of their own."""
    torch.manual_seed(4)
    layer = equal_neurons(6, direction=weight_space.DIRECTIONS[direction](6), sampling="batch")
    x = torch.randn(2, 6)
    y = layer(torch.cat([x, x, -x, x.sum(0, keepdim=True)])).detach()
    torch.testing.assert_close(y[:2], y[2:4])
    torch.testing.assert_close(y[:2], -y[4:6])
    torch.testing.assert_close(y[0] + y[1], y[6], rtol=1e-4, atol=1e-5)
    assert y[0].std() > 1e-3
    shared = equal_neurons(6, direction=noisy.Rotation(0.4), sampling="shared")
    y = shared(torch.cat([x[:1], x[:1]])).detach()
    assert (y[0] - y[1]).abs().max() > 1e-3  # there each object has an angle of its own


def test_flipout_separates_objects():
    """Sampled weights are nearly independent between objects: their products are uncorrelated (Wen et al., 2018)."""
    torch.manual_seed(5)
    layer = equal_neurons(6, direction=noisy.Rotation(0.4, mean=0.8, low=0.0), sampling="flipout")
    x = torch.randn(1, 6).expand(3, 6)
    y = layer(x).detach().double().numpy()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(correlation(y[a], y[b])) < 5 / math.sqrt(NEURONS)


def test_flipout_of_a_convolution_flips_whole_kernels():
    """Positions of an object see one kernel, so equal patches have equal tangent parts; per-pixel signs would not."""
    torch.manual_seed(6)
    noise = noisy.Projected(0.3)
    layer = noisy.DirectionConv2d(3, NEURONS, 1, bias=False, direction=noise, sampling="flipout")
    with torch.no_grad():
        layer.weight_v.copy_(layer.weight_v[:1].clone().expand_as(layer.weight_v))
        layer._set_magnitudes()
    image = torch.randn(1, 3, 1, 1).expand(2, 3, 1, 2)
    y = layer(image).detach().double().numpy()[:, :, 0, :]
    # Angles differ by position, so what is shared is the sign and size of the coordinate: strongly correlated.
    assert correlation(y[0, :, 0], y[0, :, 1]) > 0.3
    assert abs(correlation(y[0, :, 0], y[1, :, 0])) < 5 / math.sqrt(NEURONS)


def test_positions_of_a_convolution_are_independent_in_local_mode():
    torch.manual_seed(7)
    layer = noisy.DirectionConv1d(3, NEURONS, 1, bias=False, direction=noisy.Projected(0.3))
    with torch.no_grad():
        layer.weight_v.copy_(layer.weight_v[:1].clone().expand_as(layer.weight_v))
        layer._set_magnitudes()
    y = layer(torch.randn(1, 3, 1).expand(2, 3, 2)).detach().double().numpy()
    uncorrelated(y[0, :, 0], y[0, :, 1])
    uncorrelated(y[0, :, 0], y[1, :, 0])


@pytest.mark.parametrize(
    "layer", [noisy.GaussianDropoutLinear(6, NEURONS, alpha=0.5), noisy.GaussianDropout(0.5)], ids=str
)
def test_gaussian_dropout_is_independent(layer):
    torch.manual_seed(8)
    if isinstance(layer, noisy.GaussianDropout):
        y = layer(torch.ones(3, NEURONS)).numpy()
    else:
        with torch.no_grad():
            layer.weight.copy_(layer.weight[:1].clone().expand_as(layer.weight))
            layer.bias.zero_()
        y = layer(torch.randn(1, 6).expand(3, 6)).detach().numpy()
    uncorrelated(y[0], y[1])
    uncorrelated(y[0, 1:], y[0, :-1])
