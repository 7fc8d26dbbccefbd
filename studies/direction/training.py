"""Noisy networks trained by Adam as the thesis does, and measured in its three ways."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from studies import StudyError
from studies.data import ImageData
from studies.fit import Epoch, descent, falling, fit, seeded
from studies.seeds import derive
from studies.settings import SOME, Count, Positive
from studies.study import ImageStudy

WAYS = ("deterministic", "sample", "ensemble")
_ROWS_A_PASS = 5_000  # objects times samples: bounds the activations that evaluation holds at once


#: Hidden units of a fully connected network.
Hidden = Annotated[tuple[Annotated[int, Field(ge=2)], ...], SOME]
LAYERS, THESIS_LAYERS = (256, 256, 512), (1024, 1024, 2048)


@dataclass(frozen=True, kw_only=True)
class DirectionStudy(ImageStudy):
    """What every study that trains networks needs. Adam; the learning rate falls to zero over the second half."""

    epochs: Count = 30
    """passes over the training images"""
    batch_size: Count = 100
    """images a step"""
    lr: Positive = 1e-3
    """Adam's learning rate during the first half"""
    samples: Count = 30
    """networks an ensemble has"""

    def images_for(self, option: str, largest: int) -> ImageData:
        """The images; refuses an option that asks for more training images than there are."""
        data = super().prepare()
        there = len(data.train_labels)
        if largest > there:
            raise StudyError(
                f"{option} {largest} is more than the {there} training images of {data.name}: choose fewer"
            )
        return data


def paper(**more: Any) -> dict[str, Any]:
    """The thesis's training: 200 epochs on a full data set that the user has."""
    return {"data": "mnist", "epochs": 200, "samples": 50} | more


def tiny(**more: Any) -> dict[str, Any]:
    """As small as can be."""
    return {"epochs": 1, "seeds": 1, "samples": 2, "batch_size": 50} | more


def train(
    network: nn.Module, images: Tensor, labels: Tensor, settings: DirectionStudy, seed: int, *,
    loss: Callable[[Tensor, Tensor, int], Tensor] = lambda logits, labels, step: cross_entropy(logits, labels),
    faster: dict[str, float] | None = None,
) -> Iterator[Epoch]:  # fmt: skip
    """Trains as it is iterated over: Adam, noise in the mode sample; over the second half of the epochs the learning
    rate falls linearly to zero.

    Args:
        network: its parameters on the device of the images; trained in place.
        images, labels: the training set, on one device.
        settings: epochs, batch size and learning rate.
        seed: of the batch order and the noise; two networks at one seed see the same batches.
        loss: of logits, labels and the number of the step, from 0.
        faster: by what parameters of these last names have the learning rate multiplied.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((faster or {}).get(name.rsplit(".", 1)[-1], 1.0), []).append(parameter)
    optimizer = torch.optim.Adam([{"params": mine, "lr": factor * settings.lr} for factor, mine in groups.items()])
    schedule = falling(optimizer, settings.epochs)
    noisy.set_noise_mode(network, "sample")
    steps = itertools.count()

    def loss_of(batch: Tensor) -> Tensor:
        return loss(network(images[batch]), labels[batch], next(steps))

    for epoch in fit(descent(optimizer, loss_of), len(labels), settings, seed, images.device):
        schedule.step()
        yield epoch


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor, samples: int) -> Iterator[tuple[slice, Tensor]]:
    """Parts of the images, as slices, with logits (samples, part, classes) in the mode that the network is in."""
    size = max(1, _ROWS_A_PASS // samples)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield part, noisy.mc(network, images[part], samples)


def accuracies(network: nn.Module, images: Tensor, labels: Tensor, *, samples: int, seed: int) -> dict[str, float]:
    """Fractions by WAYS: mean weights, one random network (mean over the samples), and an ensemble of the samples."""
    with seeded(images.device, derive(seed, "predictions")):
        right = 0
        with noisy.noise_mode(network, "mean"):
            for part, logits in logits_of(network, images, 1):
                right += int((logits[0].argmax(1) == labels[part]).sum())
        single = together = 0
        for part, logits in logits_of(network, images, samples):
            single += int((logits.argmax(2) == labels[part]).sum())
            together += int((noisy.prediction(logits).probabilities.argmax(1) == labels[part]).sum())
    found = right / len(labels), single / len(labels) / samples, together / len(labels)
    return dict(zip(WAYS, found))
