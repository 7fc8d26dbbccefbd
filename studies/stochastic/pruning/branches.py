"""The deviation branches of a stochastic network in the loop of pruning, so that noise and regularizer stay on.

Surgery knows torch's layers only. So a stochastic network is kept as two deterministic ones, of its means and of its
raw deviations, from which the same neurons are cut, and is put together again for each turn of fine-tuning.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from studies.models import ImageShape
from studies.stochastic.pruning import networks
from studies.stochastic.pruning.surgery import Surgeon


class Branches:
    """Deviations that are pruned along with the means.

    Args:
        network: stochastic, trained; not changed.
        means: ``noisy.to_plain`` of it.
        shape: (channels, height, width) of the images.
        regularizer: of the stochastic layers while they are fine-tuned, and its weight in the loss; 0 for none.
    """

    def __init__(
        self,
        network: nn.Sequential,
        means: nn.Sequential,
        shape: ImageShape,
        regularizer: noisy.MaxEntropy,
        weight: float,
    ) -> None:
        self.regularizer, self.weight = regularizer, weight
        self.deviations = copy.deepcopy(means)
        self._take(network, self.deviations, second=True)
        self._surgeon = Surgeon(self.deviations, shape)

    def remove(self, neurons: Mapping[int, Tensor]) -> None:
        """As ``Surgeon.remove`` of the means."""
        self._surgeon.remove(neurons)

    def joined(self, means: nn.Sequential) -> nn.Sequential:
        """The stochastic network of the means as they are now; its layers are at the same places."""
        network = networks.stochastic(means, seed=0, initial_deviation=None)
        with torch.no_grad():
            for place, module in enumerate(network):
                if isinstance(module, noisy.NoisyModule):
                    for name in _parameters(module):
                        halves = [getattr(branch[place], name) for branch in (means, self.deviations)]
                        getattr(module, name).copy_(torch.cat(halves))
        if self.weight > 0:
            noisy.set_regularizer(network, self.regularizer)
        noisy.set_noise_mode(network, "sample")
        return network

    def take(self, network: nn.Sequential, means: nn.Sequential) -> None:
        """Takes over what fine-tuning made of a joined network, into the means and the deviations."""
        self._take(network, means, second=False)
        self._take(network, self.deviations, second=True)

    @staticmethod
    @torch.no_grad()
    def _take(network: nn.Sequential, branch: nn.Sequential, second: bool) -> None:
        for module, plain in zip(network, branch):
            if isinstance(module, noisy.NoisyModule):
                for name in _parameters(module):
                    getattr(plain, name).copy_(getattr(module, name).chunk(2)[second])
            else:
                plain.load_state_dict(module.state_dict())


def _parameters(module: nn.Module) -> list[str]:
    """Names; a convolution in front of a normalization has no bias."""
    return [name for name, _ in module.named_parameters(recurse=False)]
