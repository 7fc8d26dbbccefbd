"""Neurons taken out of a network: Torch-Pruning finds and cuts every weight that belongs to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch_pruning
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from studies.models import ImageShape
from studies.stochastic.pruning import networks

_CUT_UNITS = {nn.Conv2d: torch_pruning.prune_conv_out_channels, nn.Linear: torch_pruning.prune_linear_out_channels}


class Surgeon:
    """Cuts neurons out of a deterministic network of ``networks``, in place; parameters become new ones.

    Args:
        network: a flat stack with torch's layers only (``nvrm_fast.nn.to_plain`` of a stochastic one).
        shape: (channels, height, width) of its images.
    """

    def __init__(self, network: nn.Sequential, shape: ImageShape) -> None:
        self.network = network
        image = torch.zeros(1, *shape, device=next(network.parameters()).device)
        training = network.training
        network.eval()
        # Traced once: the graph is of modules, which stay while their parameters shrink.
        self._graph = torch_pruning.DependencyGraph().build_dependency(network, example_inputs=image)
        network.train(training)

    def remove(self, neurons: Mapping[int, Tensor]) -> int:
        """Removes neurons, named by the place of the module that makes them: masks (neurons,) bool, True for those to
        go. One neuron of a layer stays whatever its mask says: the first of those that were to go last. Returns how
        many went.

        Raises:
            ValueError: for a mask of another length than the layer has neurons.
        """
        removed = 0
        for place, mask in neurons.items():
            module = self.network[place]
            if mask.shape != (networks.count(module),):
                raise ValueError(
                    f"module {place} has {networks.count(module)} neurons, but its mask has shape {tuple(mask.shape)}"
                )
            chosen = mask.nonzero().flatten().tolist()
            if len(chosen) == len(mask):
                chosen = chosen[1:]
            if not chosen:
                continue
            self._cut(place, module, chosen)
            removed += len(chosen)
        return removed

    def _cut(self, place: int, module: nn.Module, chosen: list[int]) -> None:
        if isinstance(module, networks.Inputs):
            after = self.network[place + 1]
            self._graph.get_pruning_group(after, torch_pruning.prune_linear_in_channels, idxs=chosen).prune()
            stays = torch.ones(len(module.kept), dtype=torch.bool, device=module.kept.device)
            stays[chosen] = False
            module.kept = module.kept[stays]
        else:
            self._graph.get_pruning_group(module, _CUT_UNITS[type(module)], idxs=chosen).prune()


class Branches:
    """Deviations that are pruned along with the means, so that noise and regularizer stay on in the loop of pruning.

    Surgery knows torch's layers only. So a stochastic network is kept as two deterministic ones, of its means and of
    its raw deviations, from which the same neurons are cut, and is put together again for each turn of fine-tuning.

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
