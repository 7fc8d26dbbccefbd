"""Networks and training of the studies of stochastic networks on wrong labels: a method, a share of them, a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from studies.data import ImageData
from studies.fit import accuracy, descent, fit, predict
from studies.models import started
from studies.seeds import derive
from studies.settings import Count, Positive
from studies.stochastic import methods
from studies.stochastic.methods import METHODS, Loss, Summed, loss_of
from studies.study import Context, ImageStudy, Row
from studies.variability.training import Problem, corrupt

WIDTH = 128  # of both hidden layers, as in the paper and in Patrini et al.


_ESTIMATORS = {method.estimated_by for method in METHODS.values()}


@dataclass(frozen=True, kw_only=True)
class LabelStudy(ImageStudy):
    """How every network is trained."""

    epochs: Count = 20
    """passes over the training images"""
    batch_size: Count = 128
    """images a step"""
    lr: Positive = 1e-3
    """Adam's learning rate"""
    reduction: Literal["mean", "sum"] = "mean"
    """of the regularizer over neurons: as equation 6 prints it, or a sum, which is 128 times that"""

    def summary(self, row: Row) -> str:
        """``test 87.4%``."""
        return f"test {row['test_accuracy'][-1]:.1%}"


class Point(NamedTuple):
    """weight, margin: of equation 6. layers: how many of the two hidden layers are stochastic, the penultimate one
    first; the baseline has parallel layers in their place."""

    weight: float
    margin: float
    layers: int


def network_of(inputs: int, classes: int, stochastic: bool, layers: int) -> nn.Sequential:
    """inputs-128-128-classes with ReLU."""

    def hidden(in_features: int, doubled: bool) -> nn.Module:
        if doubled and stochastic:
            return noisy.StochasticLinear(in_features, WIDTH, activation="relu")
        layers = [nn.Linear(in_features, WIDTH) for _ in range(1 + doubled)]
        return nn.Sequential(Summed(*layers) if doubled else layers[0], nn.ReLU())

    first, second = hidden(inputs, layers > 1), hidden(WIDTH, layers > 0)
    return nn.Sequential(nn.Flatten(), first, second, nn.Linear(WIDTH, classes))


def trained(context: Context, point: Point, method: str, strength: float, seed: int) -> dict[str, Any]:
    """What one training gives: result (of ``train``) and, where other methods need it, the corruption that the network
    shows. All methods at one strength and seed have the same labels and batches."""
    kind = METHODS[method]

    def make() -> dict[str, Any]:
        problem = corrupt(context.prepared, "patterned", strength, seed)
        corruption = error = None
        if kind.estimated_by is not None:
            corruption = trained(context, point, kind.estimated_by, strength, seed)["corruption"]
            error = float((corruption.cpu() - true_corruption(context.prepared, problem)).abs().mean())
        loss = loss_of(kind.loss, corruption)
        result, network = train(problem, context.settings, point, method, seed, loss, context.advance)
        made = {"result": result | {"corruption_error": error}}
        if method in _ESTIMATORS:
            made["corruption"] = methods.estimated_corruption(class_probabilities(network, problem.train_images))
        return made

    if method not in _ESTIMATORS:
        return make()
    return context.once("-".join(map(str, (method, strength, *point, seed))), make)


def true_corruption(data: ImageData, problem: Problem) -> Tensor:
    """(classes, classes): the share of each given label among the images of each true one, [true, given]."""
    counts = torch.zeros(data.classes, data.classes)
    labels = data.train_labels.cpu()
    counts.index_put_((labels, problem.train_labels.cpu()), torch.ones(len(labels)), accumulate=True)
    return counts / counts.sum(1, keepdim=True)


def train(
    problem: Problem, settings: LabelStudy, point: Point, name: str, seed: int, loss: Loss,
    advance: Callable[[float], object] = lambda share: None,
) -> tuple[dict[str, Any], nn.Module]:  # fmt: skip
    """Trains one network with Adam. Returns it and

    - weights: how many it has;
    - test_accuracy, train_loss: one entry an epoch, in the mode "mean"; the loss with all that is added to it;
    - memorized: the share of flipped labels that it predicts as flipped at the end; None where none is;
    - log_deviation: mean log sigma of the penultimate layer over images with right labels, and with flipped ones;
    - seconds: of training.
    """
    method, device = METHODS[name], problem.train_images.device
    inputs = problem.train_images[0].numel()
    network = started(
        network_of, inputs, problem.classes, method.stochastic, point.layers, seed=derive(seed, "weights")
    ).to(device)
    weight = point.weight * method.weight_factor
    regularized = method.stochastic and weight > 0 and point.layers > 0
    if regularized:
        noisy.set_regularizer(network, noisy.MaxEntropy("sample", point.margin, settings.reduction))
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)

    def loss_of(batch: Tensor) -> Tensor:
        value = loss(network(problem.train_images[batch]), problem.train_labels[batch])
        return value + weight * noisy.regularizer_loss(network) if regularized else value

    accuracies, train_losses, seconds = [], [], 0.0
    for epoch in fit(descent(optimizer, loss_of), len(problem.train_labels), settings, seed, device):
        train_losses.append(epoch.loss)
        seconds += epoch.seconds
        with noisy.noise_mode(network, "mean"):
            accuracies.append(accuracy(network, problem.test_images, problem.test_labels))
        advance(1 / settings.epochs)
    memorized, deviations = _look_closer(network, problem, method.stochastic and point.layers > 0)
    return {
        "weights": sum(weight.numel() for weight in network.parameters()),
        "test_accuracy": accuracies,
        "train_loss": train_losses,
        "memorized": memorized,
        "log_deviation": deviations,
        "seconds": seconds,
    }, network


@torch.no_grad()
def _look_closer(
    network: nn.Module, problem: Problem, stochastic: bool
) -> tuple[float | None, tuple[float, float] | None]:
    flipped, deviations = problem.flipped, None
    if not bool(flipped.any()):
        return None, None
    with noisy.noise_mode(network, "mean"):
        agrees = predict(network, problem.train_images) == problem.train_labels
        if stochastic:
            of_image = network[2].gaussian(network[:2](problem.train_images))[1].log().mean(1)
            deviations = (float(of_image[~flipped].mean()), float(of_image[flipped].mean()))
    return float(agrees[flipped].double().mean()), deviations


@torch.no_grad()
def class_probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """(N, classes), of the network in the mode "mean"."""
    with noisy.noise_mode(network, "mean"):
        return torch.cat([network(part).softmax(1) for part in images.split(1000)])
