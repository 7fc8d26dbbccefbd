"""Networks and training of the stochastic label noise study: one method, one share of wrong labels, one seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from nvrm_fast.experiments.data import ImageData
from nvrm_fast.experiments.label_flips import flip_labels
from nvrm_fast.experiments.stochastic.labels import losses as label_losses
from nvrm_fast.experiments.stochastic.labels.losses import Loss
from nvrm_fast.experiments.training import Problem, predict

WIDTH = 128  # of both hidden layers, as in the paper and in Patrini et al.


@dataclass(frozen=True)
class Method:
    """A line of the table. loss: a plain loss, or None for forward correction with the corruption that the trained
    network of the method `estimated_by` shows. weight_factor: multiplies the regularizer's weight."""

    stochastic: bool
    loss: Loss | None
    estimated_by: str | None = None
    weight_factor: float = 1.0


BASELINE, SE_SNN = "baseline", "SE-SNN"
METHODS: dict[str, Method] = {
    BASELINE: Method(False, cross_entropy),
    "bootstrap, hard": Method(False, label_losses.bootstrap_hard),
    "bootstrap, soft": Method(False, label_losses.bootstrap_soft),
    "forward": Method(False, None, BASELINE),
    "SE-SNN, weight 0": Method(True, cross_entropy, weight_factor=0.0),
    SE_SNN: Method(True, cross_entropy),
    "SE-SNN + forward": Method(True, None, SE_SNN),
}


@dataclass(frozen=True)
class Recipe:
    """How every network of a study is trained. layers: how many of the two hidden layers are stochastic, the
    penultimate one first; the baseline has parallel layers in their place. weight and margin: of equation 6."""

    epochs: int
    batch_size: int
    lr: float
    weight: float
    margin: float
    layers: int


@dataclass
class Run:
    """One training. Accuracies are fractions, one entry an epoch, of the network in the mode "mean"."""

    method: str
    strength: float
    seed: int
    weights: int = 0
    test_accuracy: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)  # mean over the epoch's steps, regularizer included
    memorized: float | None = None  # flipped labels predicted as flipped after the last epoch; None: none flipped
    # Mean log sigma of the penultimate layer over training images whose labels are right, and flipped.
    log_deviation: tuple[float, float] | None = None
    corruption_error: float | None = None  # mean absolute error of the estimated matrix's entries
    seconds: float = 0.0


class Summed(nn.Module):
    """Two parallel dense layers whose outputs are added: as many weights as a stochastic layer, but no noise."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, out_features)
        self.second = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def build(inputs: int, classes: int, stochastic: bool, layers: int, seed: int) -> nn.Sequential:
    """inputs-128-128-classes with ReLU; torch's global generator is left as it was."""

    def hidden(in_features: int, doubled: bool) -> nn.Module:
        if not doubled:
            return nn.Sequential(nn.Linear(in_features, WIDTH), nn.ReLU())
        if stochastic:
            return noisy.StochasticLinear(in_features, WIDTH, activation="relu")
        return nn.Sequential(Summed(in_features, WIDTH), nn.ReLU())

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        first, second = hidden(inputs, layers > 1), hidden(WIDTH, layers > 0)
        return nn.Sequential(nn.Flatten(), first, second, nn.Linear(WIDTH, classes))


def corrupted(data: ImageData, strength: float, seed: int) -> tuple[Problem, Tensor]:
    """The problem of one seed with patterned flips, and its true corruption matrix [true, given]."""
    labels = data.train_labels.cpu()
    given, flipped = flip_labels(labels, data.classes, strength, "patterned", torch.Generator().manual_seed(seed))
    counts = torch.zeros(data.classes, data.classes)
    counts.index_put_((labels, given), torch.ones(len(labels)), accumulate=True)
    device = data.train_images.device
    problem = Problem(
        data.train_images, given.to(device), flipped.to(device), data.test_images, data.test_labels, data.classes
    )
    return problem, counts / counts.sum(1, keepdim=True)


def train(
    problem: Problem, recipe: Recipe, name: str, strength: float, seed: int, loss: Loss,
    after_epoch: Callable[[], object] = lambda: None,
) -> tuple[Run, nn.Module]:  # fmt: skip
    """Trains one network with Adam; two methods at one seed see the same batches. Global generators are untouched."""
    method = METHODS[name]
    device, inputs = problem.train_images.device, problem.train_images[0].numel()
    network = build(inputs, problem.classes, method.stochastic, recipe.layers, seed).to(device)
    weight = recipe.weight * method.weight_factor
    regularized = method.stochastic and weight > 0 and recipe.layers > 0
    if regularized:
        noisy.set_regularizer(network, noisy.MaxEntropy("sample", recipe.margin))
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.lr)
    # Not the seed itself: the labels were flipped by it, and batches must not follow the flips.
    batch_order = torch.Generator().manual_seed(seed + 2**32)
    run = Run(name, strength, seed, sum(p.numel() for p in network.parameters()))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed + 2**33)
        for _ in range(recipe.epochs):
            began, total = time.perf_counter(), torch.zeros((), device=device)
            batches = torch.randperm(len(problem.train_labels), generator=batch_order).to(device)
            steps = batches.split(recipe.batch_size)
            for batch in steps:
                optimizer.zero_grad()
                value = loss(network(problem.train_images[batch]), problem.train_labels[batch])
                if regularized:
                    value = value + weight * noisy.regularizer_loss(network)
                value.backward()
                optimizer.step()
                total += value.detach()
            run.train_loss.append(float(total) / len(steps))
            run.seconds += time.perf_counter() - began
            with noisy.noise_mode(network, "mean"):
                right = predict(network, problem.test_images) == problem.test_labels
            run.test_accuracy.append(float(right.double().mean()))
            after_epoch()
    _look_closer(run, network, problem, recipe)
    return run, network


@torch.no_grad()
def _look_closer(run: Run, network: nn.Module, problem: Problem, recipe: Recipe) -> None:
    flipped = problem.flipped
    if not bool(flipped.any()):
        return
    with noisy.noise_mode(network, "mean"):
        agrees = predict(network, problem.train_images) == problem.train_labels
        run.memorized = float(agrees[flipped].double().mean())
        if METHODS[run.method].stochastic and recipe.layers > 0:
            _, deviation = network[2].gaussian(network[:2](problem.train_images))
            of_image = deviation.log().mean(1)
            run.log_deviation = (float(of_image[~flipped].mean()), float(of_image[flipped].mean()))


@torch.no_grad()
def class_probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """(N, classes), of the network in the mode "mean"."""
    with noisy.noise_mode(network, "mean"):
        return torch.cat([network(part).softmax(1) for part in images.split(1000)])


def with_estimators(names: Iterable[str]) -> list[str]:
    """The methods of these names and those whose networks they estimate from, in the order of METHODS."""
    needed = set(names) | {METHODS[name].estimated_by for name in names}
    return [name for name in METHODS if name in needed]


def train_all(
    data: ImageData, recipe: Recipe, strength: float, seed: int, names: Iterable[str],
    after_epoch: Callable[[], object],
) -> list[Run]:  # fmt: skip
    """Every method of `names` (see with_estimators) at one strength and seed; forward correction estimates from the
    network already trained."""
    problem, true_corruption = corrupted(data, strength, seed)
    runs, estimates = [], {}
    wanted = {method.estimated_by for method in METHODS.values()}
    for name in names:
        method = METHODS[name]
        loss = method.loss or label_losses.forward_correction(estimates[method.estimated_by])
        run, network = train(problem, recipe, name, strength, seed, loss, after_epoch)
        if name in wanted:
            estimates[name] = label_losses.estimated_corruption(class_probabilities(network, problem.train_images))
        if method.estimated_by is not None:
            error = estimates[method.estimated_by].cpu() - true_corruption
            run.corruption_error = float(error.abs().mean())
        runs.append(run)
    return runs
