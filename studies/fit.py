"""The one loop over mini-batches that every training uses, and what is measured of whole sets of images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from studies.seeds import derive

_IMAGES_A_PASS = 500  # bounds the activations that evaluation holds at once


class Epoch(NamedTuple):
    """number: from 1. loss: mean over the steps of what each returned. seconds: of training alone."""

    number: int
    loss: float
    seconds: float


class Length(Protocol):
    """The settings that say how long a training is."""

    epochs: int
    batch_size: int


def fit(
    step: Callable[[Tensor], Tensor], examples: int, length: Length, seed: int, device: torch.device | str, *,
    order: torch.Generator | None = None, drawn: str = "layer noise",
) -> Iterator[Epoch]:  # fmt: skip
    """Trains as it is iterated over; between two epochs the caller measures, or changes the learning rate.

        for epoch in fit(descent(optimizer, loss), len(labels), settings, seed, device):
            accuracies.append(...)

    Args:
        step: takes an optimizer's step on the examples with these numbers, (batch,) int64 on the device; returns the
            loss it started from, () without graph.
        examples: how many there are; each epoch takes all of them in an order of its own.
        length: epochs and batch size.
        seed: of the order, and of all that is drawn by torch's generators on the way; they are as they were afterwards.
        device: where the numbers and the losses are.
        order: a generator on the CPU in place of the seed's, where the caller draws from it too.
        drawn: the purpose of what torch's generators draw.
    """
    order = order or torch.Generator().manual_seed(derive(seed, "batches"))
    with seeded(device, derive(seed, drawn)):
        for number in range(1, length.epochs + 1):
            started = now(device)
            batches = torch.randperm(examples, generator=order).to(device).split(length.batch_size)
            total = torch.zeros((), device=device)
            for batch in batches:
                total += step(batch)  # stays on the device: reading it every step would stop a GPU
            yield Epoch(number, float(total) / len(batches), now(device) - started)


def descent(optimizer: torch.optim.Optimizer, loss_of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A step for ``fit``: forward, backward, the optimizer. loss_of: the loss of the examples with these numbers."""

    def step(batch: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def endless(count: int, size: int, generator: torch.Generator, *, whole: bool = False) -> Iterator[Tensor]:
    """Numbers of examples by mini-batches without end, each pass in a new order. whole: what is left over at the end of
    a pass is left out."""
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[: count // size * size] if whole else order).split(size)


@contextlib.contextmanager
def seeded(device: torch.device | str, seed: int) -> Iterator[None]:
    """A block in which torch's generators follow from a seed; afterwards they are as they were."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def falling(optimizer: torch.optim.Optimizer, epochs: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A schedule, stepped after each epoch: over the second half of them the learning rate falls linearly to zero."""
    last = epochs // 2 + 1
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (epochs - done) / last))


@torch.no_grad()
def over(network: nn.Module, images: Tensor, what: Callable[[Tensor], Tensor]) -> Tensor:
    """What a function says of the logits of all images, part by part; the network is in training mode afterwards."""
    network.eval()
    found = torch.cat([what(network(part)) for part in images.split(_IMAGES_A_PASS)])
    network.train()
    return found


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """(N,) int64: the class of the largest logit of each image."""
    return over(network, images, lambda logits: logits.argmax(1))


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction of images whose largest logit is the label's."""
    return float((predict(network, images) == labels).double().mean())


def now(device: torch.device | str) -> float:
    """Seconds on the clock once all work queued on the device is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float | None:
    """The mean over examples of |accuracy - confidence| of their bin (Guo et al., 2017, equation 3).

    Args:
        probabilities: (N, classes); the largest is the confidence.
        labels: (N,) int64.
        bins: of equal width on (0, 1], each without its lower end.

    Returns a fraction, or None where probabilities are not finite.
    """
    confidence, predicted = probabilities.double().max(1)
    if not bool(confidence.isfinite().all()):
        return None
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    above = (predicted == labels).double() - confidence
    return float(
        torch.zeros(bins, dtype=torch.float64, device=place.device).index_add_(0, place, above).abs().sum()
    ) / len(labels)


def calibration_error(network: nn.Module, images: Tensor, labels: Tensor) -> float | None:
    """``expected_calibration_error`` of a network whose outputs are logits."""
    return expected_calibration_error(over(network, images, lambda logits: logits.softmax(1)), labels)
