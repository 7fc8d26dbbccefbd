"""The attacks of the study: foolbox's, with expected gradients for stochastic networks.

foolbox (3.3.4) by itself takes one draw of the noise a step, or averages logits (its
ExpectationOverTransformationWrapper). FGS and PGD here are its own classes with another loss: the mean of the losses of
several draws, drawn afresh at every step, whose gradient is the expected gradient. CW-L2 works on mean logits: its loss
is the hinge of a difference of two logits, so that both means agree but where draws differ in the runner-up or in which
side of the hinge they are on.

The gradient that is averaged is that of each draw's loss (Athalye et al. (2018), "Obfuscated Gradients Give a False
Sense of Security", section 4.2). Averaging logits first and taking one loss of them is another quantity, because the
loss is not linear in the logits.

All attacks are untargeted, take images (batch, ...) in [0, 1] and return images in [0, 1]. They attack the network in
the mode it is in: "sample" with draws, or in the mode "mean" the deterministic network. They draw from torch's global
generator.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
import contextlib
from collections.abc import Callable, Iterator

import eagerpy
from foolbox import PyTorchModel
from foolbox.attacks import (  # noqa: E402
    L2CarliniWagnerAttack,
    LinfFastGradientAttack,
    LinfProjectedGradientDescentAttack,
)
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


_IMAGES_A_PASS = 250


class MeanLogits(nn.Module):
    """A network's logits averaged over draws, as foolbox wants a model: (batch, classes)."""

    def __init__(self, network: nn.Module, draws: int) -> None:
        super().__init__()
        self.network, self.draws = network, draws

    def forward(self, x: Tensor) -> Tensor:
        return sampled_logits(self.network, x, self.draws).mean(0)


class _ExpectedLoss:
    """Mixed into foolbox's gradient attacks: the loss whose gradient they follow."""

    network: nn.Module
    draws: int
    loss: Loss

    def get_loss_fn(self, model, labels):
        def loss(inputs):
            value = expected_loss(self.network, inputs.raw, labels.raw, self.draws, self.loss)
            return eagerpy.astensor(value)

        return loss


class ExpectedFGS(_ExpectedLoss, LinfFastGradientAttack):
    """Fast gradient sign (Goodfellow et al., 2015)."""

    def __init__(self, network: nn.Module, draws: int, loss: Loss = cross_entropies) -> None:
        super().__init__()
        self.network, self.draws, self.loss = network, draws, loss


class ExpectedPGD(_ExpectedLoss, LinfProjectedGradientDescentAttack):
    """Projected gradient descent on the maximum norm from a random start, in steps of 2.5 epsilon / steps."""

    def __init__(self, network: nn.Module, draws: int, steps: int, loss: Loss = cross_entropies) -> None:
        super().__init__(steps=steps, rel_stepsize=2.5 / steps)
        self.network, self.draws, self.loss = network, draws, loss


def perturb(attack: ExpectedFGS | ExpectedPGD, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Images moved by at most epsilon each pixel."""
    if epsilon == 0:
        return images
    with attacked(attack.network):
        model = _model(attack.network, attack.draws, images)
        parts = zip(images.split(_IMAGES_A_PASS), labels.split(_IMAGES_A_PASS))
        return torch.cat([attack.run(model, x, y, epsilon=epsilon) for x, y in parts])


@dataclass(frozen=True)
class Found:
    """What CW-L2 came to. images: (batch, ...), the originals where nothing was found. found: (batch,) bool: some
    iterate was taken for another class, by its mean logits over the draws of that step. distance: (batch,), L2."""

    images: Tensor
    found: Tensor
    distance: Tensor


def carlini_wagner(
    network: nn.Module, images: Tensor, labels: Tensor, *, draws: int, steps: int, searches: int, stepsize: float,
    confidence: float = 0.0, first_weight: float = 0.1,
) -> Found:  # fmt: skip
    """CW-L2 (Carlini and Wagner, 2017) by Adam in tanh space with a binary search for the weight of its loss.

    steps: of Adam, in each of so many searches. first_weight: what the search starts with. Two habits of foolbox are
    mended: it would stop once a batch's loss has not fallen for a tenth of the steps, which fresh noise may bring about
    at any time; and where nothing was found it returns a black image, and may call that a success.
    """
    attack = L2CarliniWagnerAttack(
        binary_search_steps=searches, steps=steps, stepsize=stepsize, confidence=confidence,
        initial_const=first_weight, abort_early=False,
    )  # fmt: skip
    with attacked(network):
        model = _model(network, draws, images)
        parts = zip(images.split(_IMAGES_A_PASS), labels.split(_IMAGES_A_PASS))
        moved = torch.cat([attack.run(model, x, y) for x, y in parts])
    found = moved.flatten(1).amax(1) > 0  # tanh space has no pixel that is exactly black
    moved = torch.where(found.view(-1, *[1] * (images.dim() - 1)), moved, images)
    return Found(moved, found, (moved - images).flatten(1).norm(dim=1))


def _model(network: nn.Module, draws: int, images: Tensor) -> PyTorchModel:
    # In evaluation mode it does not warn; noisy layers have modes of their own.
    return PyTorchModel(MeanLogits(network, draws).eval(), bounds=(0, 1), device=images.device)
