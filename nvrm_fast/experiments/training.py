"""Train one network on corrupted labels with one optimizer and measure it, on clean weights, after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast.experiments.augmentation import AUGMENTATIONS
from nvrm_fast.experiments.data import ImageData
from nvrm_fast.experiments.label_flips import flip_labels
from nvrm_fast.experiments.networks import build_network
from nvrm_fast.experiments.optimizers import clean_weights, make_optimizer, state_bytes_a_parameter, step
from nvrm_fast.experiments.settings import Settings

_IMAGES_A_PASS = 500  # bounds the activations that evaluation holds at once


@dataclass(frozen=True)
class Problem:
    """What a run trains on and is judged by; all tensors on one device, images float32, labels int64."""

    train_images: Tensor
    train_labels: Tensor  # corrupted
    flipped: Tensor  # (N,) bool, which of them
    test_images: Tensor
    test_labels: Tensor  # clean in the study; corrupted as well in the sweep, which judges by a validation split
    classes: int


@dataclass
class Run:
    """One optimizer on one seed. Accuracies are fractions, one entry an epoch, all measured on clean weights
    and without augmentation."""

    optimizer: str
    seed: int
    test_accuracy: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)  # on the corrupted labels
    memorized: list[float | None] = field(
        default_factory=list
    )  # flipped labels predicted as flipped; None: none flipped
    train_loss: list[float | None] = field(default_factory=list)  # mean over the epoch's steps; None once it diverged
    seconds: list[float] = field(default_factory=list)  # training only, evaluation apart
    state_bytes_a_parameter: float = 0.0
    besides: dict[str, Any] = field(default_factory=dict)  # what a study measures at the end, as JSON values


#: Measures a trained network: of the network, the problem, the settings and the seed that it was trained with.
Besides = Callable[[nn.Module, Problem, Settings, int], dict[str, Any]]


def corrupt(data: ImageData, settings: Settings, seed: int) -> Problem:
    """The problem of one seed: training labels flipped, test labels clean (paper, section 4.3)."""
    labels, flipped = flip_labels(
        data.train_labels.cpu(),
        data.classes,
        settings.noise_rate,
        settings.noise_kind,
        torch.Generator().manual_seed(seed),
    )
    device = data.train_images.device
    return Problem(
        data.train_images, labels.to(device), flipped.to(device), data.test_images, data.test_labels, data.classes
    )


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """(N,) int64: the class of the largest logit of each image."""
    network.eval()
    classes = torch.cat([network(part).argmax(1) for part in images.split(_IMAGES_A_PASS)])
    network.train()
    return classes


def train(
    problem: Problem,
    settings: Settings,
    optimizer_name: str,
    seed: int,
    *,
    every_epoch: bool = True,
    after_epoch: Callable[[], object] = lambda: None,
    besides: Besides | None = None,
) -> Run:
    """Train for ``settings.epochs``. Two optimizers at one seed start from the same weights and see the same batches.

    Args:
        problem: images and labels.
        settings: the network and all hyper-parameters; its seeds and data are not looked at.
        optimizer_name: one of ``optimizers.OPTIMIZERS``.
        seed: of the initialisation, the batch order and the weight noise.
        every_epoch: measure after every epoch; otherwise once, after the last (the lists then have one entry).
        after_epoch: called after each epoch, for progress bars.
        besides: measures the network after the last epoch, on clean weights; for ``Run.besides``.
    """
    device = problem.train_images.device
    shape = tuple(problem.train_images.shape[1:])
    network = build_network(settings.network, shape, problem.classes, settings.width, seed=seed).to(device).train()
    optimizer = make_optimizer(optimizer_name, network, settings, seed, len(problem.train_labels))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, settings.drops, settings.lr_drop_factor)
    # Not the seed itself: the labels were flipped by it, and batches must not follow the flips.
    batch_order = torch.Generator().manual_seed(seed + 2**32)
    run = Run(optimizer_name, seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + 2**34)  # only IVON draws from torch's generator
        for epoch in range(settings.epochs):
            started = _now(device)
            loss = _one_epoch(optimizer_name, network, optimizer, problem, settings, batch_order)
            schedule.step()
            run.seconds.append(_now(device) - started)
            run.train_loss.append(loss if math.isfinite(loss) else None)
            if every_epoch or epoch == settings.epochs - 1:
                with clean_weights(optimizer):
                    _measure(run, network, problem)
            after_epoch()
        if besides is not None:
            with clean_weights(optimizer):
                run.besides = besides(network, problem, settings, seed)
    run.state_bytes_a_parameter = state_bytes_a_parameter(optimizer)
    return run


def _one_epoch(
    name: str, network: nn.Module, optimizer: torch.optim.Optimizer, problem: Problem, settings: Settings,
    generator: torch.Generator,
) -> float:  # fmt: skip
    """Mean over the epoch's steps of the loss that each started from."""
    labels, augment = problem.train_labels, AUGMENTATIONS[settings.augmentation]
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    total, batches = torch.zeros((), device=labels.device), order.split(settings.batch_size)
    for batch in batches:
        images = problem.train_images[batch]
        if augment is not None:
            images = augment(images, generator)
        # The sum stays on the device: reading it every step would stop a GPU.
        total += step(name, optimizer, partial(_loss, network, images, labels[batch]))
    return float(total) / len(batches)


def _loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(network(images), labels)


def _measure(run: Run, network: nn.Module, problem: Problem) -> None:
    agrees = predict(network, problem.train_images) == problem.train_labels
    flips = int(problem.flipped.sum())
    run.train_accuracy.append(float(agrees.double().mean()))
    run.memorized.append(int((agrees & problem.flipped).sum()) / flips if flips else None)
    run.test_accuracy.append(float((predict(network, problem.test_images) == problem.test_labels).double().mean()))


def _now(device: torch.device) -> float:
    """Seconds on the clock once all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
