"""Which neurons to remove: those that never fire, and of the others the one whose loss would hardly be missed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from studies.stochastic.pruning.networks import hidden

_IMAGES_A_PASS = 500


@contextlib.contextmanager
def _watch(
    network: nn.Sequential, see: Callable[[int, Tensor], object], like: nn.Sequential | None = None
) -> Iterator[None]:
    """A block in which see(place, values) is told the values of every group of neurons in every forward pass. like: a
    deterministic network with layers at the same places, if the network is stochastic."""
    handles = [
        network[group.value].register_forward_hook(
            lambda module, given, values, place=group.place: see(place, values) and None
        )
        for group in hidden(network if like is None else like)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def never_firing(network: nn.Sequential, images: Tensor) -> dict[int, Tensor]:
    """Neurons that are zero on all images and positions: masks (neurons,) bool by place. The network's output on these
    images does not depend on them (SE-SNN, section 4.1). Inputs count as firing where they are not zero."""
    fires: dict[int, Tensor] = {}

    def see(place: int, values: Tensor) -> None:
        here = values.ne(0).transpose(0, 1).flatten(1).any(1)
        fires[place] = fires[place] | here if place in fires else here

    training = network.training
    network.eval()
    with _watch(network, see):
        for part in images.split(_IMAGES_A_PASS):
            network(part)
    network.train(training)
    return {place: ~here for place, here in fires.items()}


class Taylor:
    """What removing a neuron does to the loss, to first order (Molchanov et al., 2017b, section 2.2).

    For one image |mean over positions of (gradient of the loss * value)|; averaged over all images seen; within each
    layer divided by the l2 norm over its neurons, so that layers can be compared.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def watching(self, network: nn.Sequential, like: nn.Sequential | None = None) -> Iterator[None]:
        """A block whose forward passes are remembered until ``add``. like: as ``_watch`` takes it."""

        def see(place: int, values: Tensor) -> None:
            if not values.requires_grad:  # the inputs, which nothing before them needs
                values.requires_grad_()
            values.retain_grad()
            self._values[place] = values

        with _watch(network, see, like):
            yield

    def add(self) -> None:
        """After backward of a mean loss over the images of a pass: adds what they say."""
        for place, values in self._values.items():
            product = (values.grad * values.detach()).flatten(2) if values.dim() > 2 else None
            by_image = values.grad * values.detach() if product is None else product.mean(2)
            # The gradient of the mean over images is a share of each image's own.
            seen = len(values) * by_image.abs().sum(0)
            self._sums[place] = self._sums[place] + seen if place in self._sums else seen
        self._values.clear()

    def scores(self) -> dict[int, Tensor]:
        """(neurons,) by place, of l2 norm 1 within each layer; a layer without any importance has zeros."""
        return {place: sums / sums.norm().clamp_min(torch.finfo(sums.dtype).tiny) for place, sums in self._sums.items()}


def least(scores: dict[int, Tensor], at_once: int = 1) -> dict[int, Tensor]:
    """Masks of the least important neurons of the whole network, of which every layer keeps at least one.

    at_once: how many; fewer where not so many are left. Empty where every layer is down to one neuron.
    """
    ranked = []
    for place, score in scores.items():
        order = score.sort(stable=True).indices.tolist()
        ranked += [(float(score[neuron]), place, neuron) for neuron in order[:-1]]  # the best stays
    masks: dict[int, Tensor] = {}
    for _, place, neuron in sorted(ranked)[:at_once]:
        masks.setdefault(place, torch.zeros(len(scores[place]), dtype=torch.bool))[neuron] = True
    return masks
