"""The methods of Table 4 and what they do to a network: a stochastic last unit, or a parallel layer that is added."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nvrm_fast import nn as noisy
from studies.models import started
from studies.stochastic.reid.resnet import ResNet

PLAIN, HARD, SOFT, FORWARD = "cross entropy", "bootstrap, hard", "bootstrap, soft", "forward"


@dataclass(frozen=True)
class Method:
    """A line of the table. loss: one of the four above, of both stages. weight_factor: multiplies the regularizer's
    weight."""

    stochastic: bool
    loss: str
    weight_factor: float = 1.0


BASELINE, SE_SNN = "baseline", "SE-SNN"
METHODS: dict[str, Method] = {
    BASELINE: Method(False, PLAIN),
    "bootstrap, hard": Method(False, HARD),
    "bootstrap, soft": Method(False, SOFT),
    "forward": Method(False, FORWARD),
    "SE-SNN, weight 0": Method(True, PLAIN, weight_factor=0.0),
    SE_SNN: Method(True, PLAIN),
    "SE-SNN + forward": Method(True, FORWARD),
}
MethodName = Literal[tuple(METHODS)]


class Summed(nn.Module):
    """Two parallel convolutions whose outputs are added: as many weights as a stochastic one, but no noise. The added
    one starts at 0, so that the features begin as they were."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.first = convolution
        self.second = copy.deepcopy(convolution)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


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
        unit.conv3 = Summed(unit.conv3)
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
