"""Neurons taken out of a network: Torch-Pruning finds and cuts every weight that belongs to them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch_pruning
from torch import Tensor, nn

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
