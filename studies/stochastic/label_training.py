"""Networks and training of the studies of stochastic networks on wrong labels: a method, a share of them, a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from studies.data import ImageData, to_unit
from studies.fit import accuracy, descent, fit, over, predict
from studies.models import started
from studies.seeds import derive, held_out
from studies.settings import Count, Positive, Share
from studies.stochastic import methods
from studies.stochastic.methods import METHODS, Loss, Summed, loss_of
from studies.study import Context, ImageStudy, Row
from studies.variability.training import Problem, corrupt

WIDTH = 128  # of both hidden layers, as in the paper and in Patrini et al.

_OPTIMIZERS = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}
_ESTIMATORS = {method.estimated_by for method in METHODS.values()}


@dataclass(frozen=True, kw_only=True)
class LabelStudy(ImageStudy):
    """How every network is trained."""

    epochs: Count = 20
    """passes over the training images"""
    batch_size: Count = 128
    """images a step"""
    optimizer: Literal["adam", "adagrad"] = "adam"
    """adagrad is Patrini et al.'s"""
    lr: Positive = 1e-3
    """the optimizer's learning rate"""
    inputs: Literal["standardized", "unit"] = "standardized"
    """pixels with mean 0 and deviation 1, or from 0 to 1 as Hendrycks et al. (2018) have them"""
    dropout: Share = 0.0
    """behind each hidden layer; Patrini et al. have 0.2"""
    validation: Share = 0.0
    """share of the training images, their labels flipped alike, that is held out: the table then also has the epoch of
    the lowest loss on them, which is the network that Patrini et al. keep (0: none)"""
    reduction: Literal["mean", "sum"] = "mean"
    """of the regularizer over neurons: as equation 6 prints it, or a sum, which is 128 times that"""

    def prepare(self) -> ImageData:
        """The images, scaled as --inputs says."""
        return super().prepare() if self.inputs == "standardized" else to_unit(self.loaded(), self.device)

    def summary(self, row: Row) -> str:
        """``test 87.4%``."""
        return f"test {row['test_accuracy'][-1]:.1%}"


class Point(NamedTuple):
    """weight, margin: of equation 6. layers: how many of the two hidden layers are stochastic, the penultimate one
    first; the baseline has parallel layers in their place."""

    weight: float
    margin: float
    layers: int


def network_of(inputs: int, classes: int, stochastic: bool, layers: int, dropout: float = 0.0) -> nn.Sequential:
    """inputs-128-128-classes with ReLU, and dropout behind the hidden layers if there is any."""

    def hidden(in_features: int, doubled: bool) -> nn.Module:
        if doubled and stochastic:
            return noisy.StochasticLinear(in_features, WIDTH, activation="relu")
        layers = [nn.Linear(in_features, WIDTH) for _ in range(1 + doubled)]
        return nn.Sequential(Summed(*layers) if doubled else layers[0], nn.ReLU())

    network = [nn.Flatten(), hidden(inputs, layers > 1), hidden(WIDTH, layers > 0), nn.Linear(WIDTH, classes)]
    if dropout:
        network[3:3], network[2:2] = [nn.Dropout(dropout)], [nn.Dropout(dropout)]
    return nn.Sequential(*network)


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
    """Trains one network. Returns it and

    - weights: how many it has;
    - test_accuracy, train_loss: one entry an epoch, in the mode "mean"; the loss with all that is added to it;
    - validation_loss: one entry an epoch, the method's loss without the regularizer, in the mode "mean", on the images
      held out; None where none are;
    - memorized: the share of flipped labels that it predicts as flipped at the end; None where none is;
    - log_deviation: mean log sigma of the penultimate layer over images with right labels, and with flipped ones;
    - seconds: of training.
    """
    method, device = METHODS[name], problem.train_images.device
    held = None
    if settings.validation:
        held, used = held_out(problem.train_labels, settings.validation, seed)
        held = problem.train_images[held], problem.train_labels[held]
        problem = replace(
            problem,
            train_images=problem.train_images[used],
            train_labels=problem.train_labels[used],
            flipped=problem.flipped[used],
        )
    inputs = problem.train_images[0].numel()
    network = started(
        network_of, inputs, problem.classes, method.stochastic, point.layers, settings.dropout,
        seed=derive(seed, "weights"),
    ).to(device)  # fmt: skip
    weight = point.weight * method.weight_factor
    regularized = method.stochastic and weight > 0 and point.layers > 0
    if regularized:
        noisy.set_regularizer(network, noisy.MaxEntropy("sample", point.margin, settings.reduction))
    optimizer = _OPTIMIZERS[settings.optimizer](network.parameters(), lr=settings.lr)

    def loss_of(batch: Tensor) -> Tensor:
        value = loss(network(problem.train_images[batch]), problem.train_labels[batch])
        return value + weight * noisy.regularizer_loss(network) if regularized else value

    accuracies, train_losses, validation_losses, seconds = [], [], [], 0.0
    for epoch in fit(descent(optimizer, loss_of), len(problem.train_labels), settings, seed, device):
        train_losses.append(epoch.loss)
        seconds += epoch.seconds
        with noisy.noise_mode(network, "mean"):
            accuracies.append(accuracy(network, problem.test_images, problem.test_labels))
            if held is not None:
                with torch.no_grad():
                    validation_losses.append(float(loss(over(network, held[0], lambda logits: logits), held[1])))
        advance(1 / settings.epochs)
    memorized, deviations = _look_closer(network, problem, method.stochastic and point.layers > 0)
    return {
        "weights": sum(weight.numel() for weight in network.parameters()),
        "test_accuracy": accuracies,
        "train_loss": train_losses,
        "validation_loss": validation_losses or None,
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
            network.eval()  # no dropout
            last = max(place for place, layer in enumerate(network) if isinstance(layer, noisy.NoisyModule))
            of_image = network[last].gaussian(network[:last](problem.train_images))[1].log().mean(1)
            deviations = (float(of_image[~flipped].mean()), float(of_image[flipped].mean()))
    return float(agrees[flipped].double().mean()), deviations


@torch.no_grad()
def class_probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """(N, classes), of the network in the mode "mean"."""
    with noisy.noise_mode(network, "mean"):
        return over(network, images, lambda logits: logits.softmax(1))
