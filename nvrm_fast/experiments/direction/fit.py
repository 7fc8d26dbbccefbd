"""Train a noisy network with Adam as the thesis does, and measure it in its three ways."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy

WAYS = ("deterministic", "sample", "ensemble")
_ROWS_A_PASS = 5_000  # objects times samples: bounds the activations that evaluation holds at once


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


def plain_loss(network: nn.Module, logits: Tensor, labels: Tensor, step: int) -> Tensor:
    """Cross entropy of a mini-batch."""
    return cross_entropy(logits, labels)


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    loss: Callable[[nn.Module, Tensor, Tensor, int], Tensor] = plain_loss,
    after_epoch: Callable[[int], object] = lambda epoch: None,
    faster: dict[str, float] | None = None,
) -> None:
    """Adam, noise in the mode sample; over the second half of the epochs the learning rate falls linearly to zero.

    Args:
        network: its parameters on the device of the images; trained in place.
        images, labels: the training set, on one device.
        seed: of the batch order and the noise; two networks at one seed see the same batches.
        loss: of network, logits, labels and the number of the step, from 0.
        after_epoch: called with the number of the epoch, from 1.
        faster: by what parameters of these last names have the learning rate multiplied.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((faster or {}).get(name.rsplit(".", 1)[-1], 1.0), []).append(parameter)
    optimizer = torch.optim.Adam([{"params": mine, "factor": factor} for factor, mine in groups.items()], lr=lr)
    order = torch.Generator().manual_seed(seed + 2**32)
    noisy.set_noise_mode(network, "sample")
    step, first_falling = 0, (epochs + 1) // 2
    with seeded(images.device, seed + 2**33):
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = group["factor"] * lr * min(1.0, (epochs - epoch) / (epochs - first_falling + 1))
            batches = torch.randperm(len(labels), generator=order).to(images.device).split(batch_size)
            for batch in batches:
                optimizer.zero_grad()
                loss(network, network(images[batch]), labels[batch], step).backward()
                optimizer.step()
                step += 1
            after_epoch(epoch + 1)


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor, samples: int) -> Iterator[tuple[slice, Tensor]]:
    """Parts of the images, as slices, with logits (samples, part, classes) in the mode that the network is in."""
    size = max(1, _ROWS_A_PASS // samples)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield part, noisy.mc(network, images[part], samples)


def accuracies(network: nn.Module, images: Tensor, labels: Tensor, *, samples: int, seed: int) -> dict[str, float]:
    """Fractions by WAYS: mean weights, one random network (mean over the samples), and an ensemble of the samples."""
    with seeded(images.device, seed):
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
