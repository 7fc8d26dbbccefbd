"""The one loop over mini-batches that every training uses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

_IMAGES_A_PASS = 500  # bounds the activations that evaluation holds at once


class Epoch(NamedTuple):
    """number: from 1. loss: mean over the steps of what each returned. seconds: of training alone."""

    number: int
    loss: float
    seconds: float


def fit(
    step: Callable[[Tensor], Tensor], examples: int, *, epochs: int, batch_size: int, order: torch.Generator,
    device: torch.device | str = "cpu",
) -> Iterator[Epoch]:  # fmt: skip
    """Trains as it is iterated over; between two epochs the caller measures, or changes the learning rate.

        for epoch in fit(step, len(labels), epochs=30, batch_size=100, order=generator):
            accuracies.append(...)

    Args:
        step: takes an optimizer's step on the examples with these numbers, (batch,) int64 on the device; returns the
            loss it started from, () without graph.
        examples: how many there are; each epoch takes all of them in an order of its own.
        order: on the CPU; of the order and of nothing else, unless ``step`` draws from it too.
        device: where the numbers and the losses are.
    """
    for number in range(1, epochs + 1):
        started = now(device)
        batches = torch.randperm(examples, generator=order).to(device).split(batch_size)
        total = torch.zeros((), device=device)
        for batch in batches:
            total += step(batch)  # stays on the device: reading it every step would stop a GPU
        yield Epoch(number, float(total) / len(batches), now(device) - started)


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


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """(N,) int64: the class of the largest logit of each image; the network is in training mode afterwards."""
    network.eval()
    classes = torch.cat([network(part).argmax(1) for part in images.split(_IMAGES_A_PASS)])
    network.train()
    return classes


def now(device: torch.device | str) -> float:
    """Seconds on the clock once all work queued on the device is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
