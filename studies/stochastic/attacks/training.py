"""Networks of the study of adversarial attacks and their training, on clean images alone or also on attacked ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from studies import StudyError
from studies.data import ImageData
from studies.fit import descent, fit
from studies.models import started
from studies.seeds import derive
from studies.stochastic.attacks.library import expected_gradient

BASELINE, DEEP_VIB, WEIGHT_0, SE_SNN = "baseline", "deep VIB", "SE-SNN, weight 0", "SE-SNN"
#: Of the networks that are compared, in the order of the tables.
METHODS = (BASELINE, DEEP_VIB, WEIGHT_0, SE_SNN)
NORMAL, ADVERSARIAL = "normal", "adversarial"
TRAININGS = (NORMAL, ADVERSARIAL)


def build(method: str, inputs: int, classes: int, hidden: Sequence[int], seed: int) -> nn.Sequential:
    """Fully connected with ReLU, the last hidden layer stochastic but for the baseline; takes images of any shape.

    Two methods at one seed start from the same weights but for those of the last hidden layer and the classifier.
    """
    return started(_layers, method, inputs, classes, hidden, seed=seed)


def _layers(method: str, inputs: int, classes: int, hidden: Sequence[int]) -> nn.Sequential:
    *plain, last = hidden
    layers: list[nn.Module] = [nn.Flatten()]
    for units in plain:
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    if method == BASELINE:
        layers += [nn.Linear(inputs, last), nn.ReLU()]
    else:
        layers.append(noisy.StochasticLinear(inputs, last, activation="relu"))
    return nn.Sequential(*layers, nn.Linear(last, classes))


def regularizer(method: str, settings: Any) -> tuple[noisy.MaxEntropy | noisy.StandardNormal | None, float]:
    """A method's regularizer and its weight in the loss; (None, 0) where it has none."""
    if method == SE_SNN:
        return noisy.MaxEntropy("element", settings.margin, settings.reduction), settings.weight
    if method == DEEP_VIB:
        return noisy.StandardNormal(), settings.beta
    return None, 0.0


def fast_gradient_sign(network: nn.Module, images: Tensor, labels: Tensor, epsilon: Tensor) -> Tensor:
    """The attack that adversarial training makes, with the gradient of one draw of the noise.

    images: (batch, ...) in [0, 1]. epsilon: (batch,). Written out for speed; a test compares it with the library's.
    """
    gradient = expected_gradient(network, images, labels, draws=1)
    steps = epsilon.view(-1, *[1] * (images.dim() - 1))
    return (images + steps * gradient.sign()).clamp_(0, 1)


def train(data: ImageData, settings: Any, method: str, training: str, seed: int) -> tuple[nn.Sequential, float]:
    """A trained network, in the mode "sample", and the seconds that it took. images: in [0, 1].

    Adam. Two methods at one seed see the same batches. Adversarial training takes the mean of the losses of a batch and
    of the same batch under FGS, its strength drawn uniformly from 0 to train_epsilon for each image. Raises StudyError
    where the loss is no longer finite.
    """
    device, inputs = data.train_images.device, data.train_images[0].numel()
    network = build(method, inputs, data.classes, settings.hidden, derive(seed, "weights")).to(device)
    penalty, weight = regularizer(method, settings)
    if penalty is not None:
        noisy.set_regularizer(network, penalty)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)

    def loss_of(batch: Tensor) -> Tensor:
        images, labels = data.train_images[batch], data.train_labels[batch]
        if training == ADVERSARIAL:
            epsilon = settings.train_epsilon * torch.rand(len(labels), device=device)
            images = torch.cat([images, fast_gradient_sign(network, images, labels, epsilon)])
            labels = labels.repeat(2)
        loss = cross_entropy(network(images), labels)
        if penalty is not None:
            loss = loss + weight * noisy.regularizer_loss(network)
        return loss

    epochs = list(fit(descent(optimizer, loss_of), len(data.train_labels), settings, seed, device))
    if not math.isfinite(epochs[-1].loss):
        raise StudyError(
            f"{method}, {training} training: the loss is {epochs[-1].loss} at the end; choose a lower --lr"
        )
    return network, sum(epoch.seconds for epoch in epochs)


@torch.no_grad()
def log_deviation(network: nn.Sequential, images: Tensor) -> float | None:
    """Mean log sigma of the stochastic layer over images and neurons; None for a network without one."""
    for place, layer in enumerate(network):
        if isinstance(layer, noisy.StochasticLinear):
            return float(layer.gaussian(network[:place](images))[1].log().mean())
    return None
