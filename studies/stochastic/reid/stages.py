"""The two stages of training (SE-SNN, appendix A) and what is measured afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nvrm_fast import nn as noisy
from studies.fit import descent, endless, now, seeded
from studies.seeds import derive
from studies.stochastic import methods
from studies.stochastic.methods import Loss, Method, loss_of
from studies.stochastic.reid import market1501, resnet
from studies.stochastic.reid.market1501 import Market, Pictures
from studies.stochastic.reid.resnet import ResNet

_PICTURES_A_PASS = 200
# Of the channels of ImageNet's pictures, by which published weights expect theirs to be standardized.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage trains, by Adam."""

    iterations: int
    batch_size: int
    lr: float


@dataclass(frozen=True)
class Task:
    """What one run trains on. pictures: (N, 3, height, width) uint8. given, flipped: labels and which are wrong, (N,).
    All on one device."""

    pictures: Tensor
    given: Tensor
    flipped: Tensor
    classes: int


def standardized(pictures: Tensor) -> Tensor:
    """float32 from uint8 pictures; channels last, in which small convolutions take two thirds of the time."""
    mean, deviation = (pictures.new_tensor(of, dtype=torch.float32)[:, None, None] for of in (_MEAN, _DEVIATION))
    return ((pictures / 255 - mean) / deviation).contiguous(memory_format=torch.channels_last)


def fit(
    network: ResNet, task: Task, stage: Stage, loss: Loss, seed: int, weight: float, after_step: Callable[[], object]
) -> float:
    """Trains the parameters that are not frozen, in the mode (train or eval) that the network is in. weight: of the
    regularizer that stochastic layers have; 0 for none. Global generators are untouched. Returns the mean loss of the
    last tenth of the steps, regularizer included."""
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=stage.lr, fused=True)
    device = task.pictures.device
    generator = torch.Generator().manual_seed(derive(seed, "batches"))
    order = endless(len(task.pictures), stage.batch_size, generator, whole=True)

    def loss_of(batch: Tensor) -> Tensor:
        value = loss(network(standardized(task.pictures[batch])), task.given[batch])
        return value + weight * noisy.regularizer_loss(network) if weight > 0 else value

    step, last, total = descent(optimizer, loss_of), max(1, stage.iterations // 10), torch.zeros((), device=device)
    with seeded(device, derive(seed, "layer noise")):
        for number in range(stage.iterations):
            value = step(next(order).to(device))
            if number >= stage.iterations - last:
                total += value
            after_step()
    return float(total) / last


@torch.no_grad()
def over(network: ResNet, pictures: Tensor, what: Callable[[Tensor], Tensor]) -> Tensor:
    """What a function says of all pictures, part by part, the network in eval mode and in the mode "mean"."""
    training = network.training
    network.eval()
    try:
        with noisy.noise_mode(network, "mean"):
            return torch.cat([what(standardized(part)) for part in pictures.split(_PICTURES_A_PASS)])
    finally:
        network.train(training)


def features_of_files(network: ResNet, pictures: Pictures, size: tuple[int, int], device: torch.device) -> Tensor:
    """(N, K): features of pictures that are decoded part by part, since a gallery may be larger than memory."""
    parts = [
        over(network, market1501.decode(pictures.paths[start : start + 512], size).to(device), network.features)
        for start in range(0, len(pictures), 512)
    ]
    return torch.cat(parts)


def first_stage(
    network: ResNet, task: Task, stage: Stage, loss: Loss, seed: int, after_step: Callable[[], object]
) -> ResNet:
    """Trains the whole deterministic network, which is changed and returned."""
    fit(network.train(), task, stage, loss, seed, 0.0, after_step)
    return network.eval()


def corruption_of(network: ResNet, task: Task) -> Tensor:
    """(classes, classes): the matrix that forward correction takes, from the argmax over all training pictures."""
    probabilities = over(network, task.pictures, lambda x: network(x).softmax(1))
    return methods.estimated_corruption(probabilities, percentile=None)


def second_stage(
    first: ResNet, task: Task, stage: Stage, method: Method, corruption: Tensor | None, seed: int,
    regularizer: tuple[float, float, str], after_step: Callable[[], object],
) -> tuple[ResNet, dict[str, Any]]:  # fmt: skip
    """Extends the network of the first stage and trains its last unit and classifier. regularizer: weight, margin
    and reduction of equation 6. Returns the network, in eval mode, and loss, seconds, number of weights and of trained
    ones."""
    network = resnet.extended(first, method.stochastic, derive(seed, "last unit"))
    weight, margin, reduction = regularizer
    weight *= method.weight_factor * method.stochastic
    if weight > 0:
        noisy.set_regularizer(network, noisy.MaxEntropy("sample", margin, reduction))
        # The rest stays in eval mode, for its normalizations; passes of a layer in eval mode do not count.
        network.last_unit[1].conv3.train()
    began = now(task.pictures.device)
    loss = fit(network, task, stage, loss_of(method.loss, corruption), seed, weight, after_step)
    network.eval()
    return network, {
        "loss": loss,
        "seconds": now(task.pictures.device) - began,
        "weights": sum(p.numel() for p in network.parameters()),
        "trained": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }


def measure(network: ResNet, task: Task, market: Market, size: tuple[int, int]) -> dict[str, Any]:
    """Retrieval scores in the mode "mean"; the share of training labels that it predicts as given, all and the wrong
    ones; and where the last unit is stochastic the mean sigma and log sigma of pictures with right labels and with
    wrong ones, and the places of those with the smallest and the largest."""
    device = task.pictures.device
    sides = [features_of_files(network, part, size, device) for part in (market.query, market.gallery)]
    result: dict[str, Any] = market1501.scores(*sides, market.query, market.gallery)
    agrees = over(network, task.pictures, lambda x: network(x).argmax(1)) == task.given
    result["train"] = _mean(agrees)
    result["memorized"] = _mean(agrees[task.flipped])
    if isinstance(network.last_unit[1].conv3, noisy.StochasticConv2d):
        spread = over(network, task.pictures, lambda x: torch.stack(resnet.deviations(network, x), 1))
        groups = {"right": ~task.flipped, "wrong": task.flipped}
        result["sigma"] = {name: _mean(spread[which, 0]) for name, which in groups.items()}
        result["log_sigma"] = {name: _mean(spread[which, 1]) for name, which in groups.items()}
        order = spread[:, 1].argsort().tolist()
        result["calmest"], result["loudest"] = order[:10], order[:-11:-1]
    return result


def _mean(values: Tensor) -> float | None:
    """None where there is nothing to average."""
    return float(values.double().mean()) if len(values) else None


_ROWS_A_PASS = 512  # bounds the distances held at once


def most_similar_other(features: Tensor, labels: Tensor) -> Tensor:
    """For each picture the nearest one, by Euclidean distance of features, that has a different identity.

    Args:
        features: (N, K), floating-point, of a network trained on right labels.
        labels: (N,) int64 on the same device, of at least two identities.

    Returns:
        (N,) int64 on the CPU: places of pictures.
    """
    nearest = []
    for part, own in zip(features.split(_ROWS_A_PASS), labels.split(_ROWS_A_PASS)):
        distances = torch.cdist(part, features)
        distances[own[:, None] == labels] = torch.inf
        nearest.append(distances.argmin(1).cpu())
    return torch.cat(nearest)


def flip_to_similar(labels: Tensor, similar: Tensor, strength: float, seed: int) -> tuple[Tensor, Tensor]:
    """Given labels, (N,) int64, and which of them are wrong, (N,) bool.

    round(strength N) pictures, drawn by the seed, get the label of the picture at ``similar``, (N,) int64. At one seed
    the pictures of a smaller strength are among those of a larger one.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    flipped = torch.zeros(len(labels), dtype=torch.bool)
    flipped[order[: round(strength * len(labels))]] = True
    return torch.where(flipped, labels[similar], labels), flipped
