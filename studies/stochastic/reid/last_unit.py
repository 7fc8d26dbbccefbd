"""What the methods of Table 4 do to a network: a stochastic last unit, or a parallel layer that is added."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nvrm_fast import nn as noisy
from studies.models import started
from studies.stochastic.methods import Summed
from studies.stochastic.reid.resnet import ResNet


def extended(network: ResNet, stochastic: bool, seed: int) -> ResNet:
    """A copy of a network of the first stage made ready for the second (appendix A); the network itself stays.

    The last convolution of the last bottleneck becomes stochastic, with a deviation branch at random, or gets a
    parallel one. Its batch normalization is folded into it before: noise that comes before a normalization would be in
    its running variances, which the mode "mean" then divides by. All parameters but this layer's and the classifier's
    are frozen, and the other normalizations keep their statistics as long as the copy stays in eval mode, as returned.
    """
    new = copy.deepcopy(network).eval()
    name, unit = new.last_unit
    unit.conv3, unit.bn3 = fuse_conv_bn_eval(unit.conv3, unit.bn3), nn.Identity()
    if stochastic:
        new = started(
            noisy.to_noisy, new.cpu(), "stochastic", where=lambda layer, module: layer == f"{name}.conv3", seed=seed
        )
        new = new.to(next(network.parameters()).device)
    else:
        parallel = copy.deepcopy(unit.conv3)
        for parameter in parallel.parameters():
            nn.init.zeros_(parameter)  # so that the features begin as they were
        unit.conv3 = Summed(unit.conv3, parallel)
    for parameter in new.parameters():
        parameter.requires_grad_(False)
    for parameter in (*new.last_unit[1].conv3.parameters(), *new.fc.parameters()):
        parameter.requires_grad_(True)
    return new


@torch.no_grad()
def deviations(network: ResNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean sigma and mean log sigma of each picture, (N,) each, over channels and positions of the stochastic layer."""
    layer = network.last_unit[1].conv3
    seen = []
    handle = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        with noisy.noise_mode(network, "mean"):
            network.features(x)
    finally:
        handle.remove()
    sigma = layer.gaussian(seen[0])[1]
    return sigma.mean((1, 2, 3)), sigma.log().mean((1, 2, 3))
