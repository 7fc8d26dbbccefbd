"""Expected gradients of stochastic networks: the mean over draws of the noise of the gradients of the loss.

Athalye et al. (2018), "Obfuscated Gradients Give a False Sense of Security", section 4.2. The gradient that is averaged
is that of each draw's loss. Averaging logits first and taking one loss of them is another quantity, because the loss is
not linear in the logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from nvrm_fast import nn as noisy
from nvrm_fast.nn.base import NoisyModule

#: Maps logits (batch, classes) and labels (batch,) to losses (batch,), which attacks raise.
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each image."""
    return cross_entropy(logits, labels, reduction="none")


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of another class minus that of the label (Carlini and Wagner, 2017, without its hinge): unlike the
    cross entropy it has a gradient where the softmax is saturated."""
    own = one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]


def sampled_logits(network: nn.Module, images: Tensor, draws: int) -> Tensor:
    """Logits of several draws of the noise: (draws, batch, classes), with a graph where gradients are on.

    Of an nn.Sequential only the part from the first noisy layer on is run for each draw: what is in front of it is the
    same for all, and most of the work. In the mode "mean" one draw is made, for they are all alike.
    """
    layers = [layer for _, layer in noisy.noisy_modules(network)]
    if all(layer.mode == "mean" for layer in layers):
        return network(images).unsqueeze(0)
    if isinstance(network, nn.Sequential):
        first = next(
            place
            for place, part in enumerate(network)
            if any(isinstance(module, NoisyModule) for module in part.modules())
        )
        return noisy.mc(network[first:], network[:first](images), draws)
    return noisy.mc(network, images, draws)


def expected_loss(network: nn.Module, images: Tensor, labels: Tensor, draws: int, loss: Loss) -> Tensor:
    """Losses summed over images and averaged over fresh draws, a scalar: an image's gradient of it is the mean over
    draws of the image's own gradients."""
    logits = sampled_logits(network, images, draws)
    return loss(logits.flatten(0, 1), labels.repeat(len(logits))).sum() / len(logits)


def expected_gradient(
    network: nn.Module, images: Tensor, labels: Tensor, draws: int, loss: Loss = cross_entropies
) -> Tensor:
    """The expected gradient with respect to images (batch, ...), of their shape; parameters get none."""
    with attacked(network), torch.enable_grad():
        images = images.detach().requires_grad_()
        return torch.autograd.grad(expected_loss(network, images, labels, draws, loss), images)[0]


@contextlib.contextmanager
def attacked(network: nn.Module) -> Iterator[None]:
    """A block for an attacker's passes: parameters need no gradients, which attacks would else work out and add up for
    nothing, and regularizers do not count the passes, whose graphs are gone when regularizer_loss comes for them."""
    parameters = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    layers = [module for module in network.modules() if getattr(module, "regularizer", None) is not None]
    regularizers = [layer.regularizer for layer in layers]
    try:
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        for layer in layers:
            layer.regularizer = None
        yield
    finally:
        for parameter, needed in parameters:
            parameter.requires_grad_(needed)
        for layer, regularizer in zip(layers, regularizers):
            layer.regularizer = regularizer
