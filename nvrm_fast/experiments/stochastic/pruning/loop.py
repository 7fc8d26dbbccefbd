"""Training, then the paper's pipeline: inactive neurons in one go, then the least important one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from nvrm_fast.experiments.data import ImageData
from nvrm_fast.experiments.direction import fit
from nvrm_fast.experiments.label_flips import flip_labels
from nvrm_fast.experiments.stochastic.pruning import networks
from nvrm_fast.experiments.stochastic.pruning.importance import Taylor, least, never_firing
from nvrm_fast.experiments.stochastic.pruning.measure import cost, saved
from nvrm_fast.experiments.stochastic.pruning.options import SE_SNN, PruningSettings
from nvrm_fast.experiments.stochastic.pruning.surgery import Surgeon
from nvrm_fast.experiments.training import predict

WHOLE, ACTIVE, LOOP, END = "whole", "active", "loop", "end"  # stages, in the order of a run


@dataclass(frozen=True)
class Split:
    """One seed's images (N, channels, height, width) and labels (N,). Training and validation labels are flipped alike;
    the test labels are right."""

    images: Tensor
    labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def split(data: ImageData, chosen: PruningSettings, seed: int) -> Split:
    """Flips labels of all training images, then holds some out: at least one, and not all."""
    device = data.train_images.device
    labels, _ = flip_labels(
        data.train_labels.cpu(), data.classes, chosen.noise_rate, "patterned", torch.Generator().manual_seed(seed)
    )
    labels = labels.to(device)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed + 2**31)).to(device)
    out = min(max(1, round(chosen.validation * len(labels))), len(labels) - 1)
    held, used = order[:out], order[out:]
    return Split(
        data.train_images[used], labels[used], data.train_images[held], labels[held], data.test_images, data.test_labels
    )


def one_run(
    data: ImageData, chosen: PruningSettings, *, method: str, weight: float, margin: float, seed: int
) -> dict[str, Any]:
    """Trains one network and prunes it: points of its way (see ``prune``), facts of ``inactive`` and seconds.

    Methods at one seed have the same images, initial means and batches.
    """
    part = split(data, chosen, seed)
    network = networks.build(chosen.network, data.shape, data.classes, chosen.width, seed=seed)
    regularized = method == SE_SNN and weight > 0
    if method == SE_SNN:
        network = networks.stochastic(network, seed=seed, initial_deviation=chosen.initial_deviation)
    if regularized:
        noisy.set_regularizer(network, noisy.MaxEntropy(chosen.over, margin))

    def loss(network: nn.Module, logits: Tensor, labels: Tensor, step: int) -> Tensor:
        value = cross_entropy(logits, labels)
        return value + weight * noisy.regularizer_loss(network) if regularized else value

    network = network.to(part.images.device).train()
    began = time.perf_counter()
    fit.train(
        network, part.images, part.labels, epochs=chosen.epochs, batch_size=chosen.batch_size, lr=chosen.lr, seed=seed,
        loss=loss,
    )  # fmt: skip
    trained = time.perf_counter()
    with fit.seeded(part.images.device, seed):  # new layers draw weights, only to be overwritten
        plain = noisy.to_plain(network)
    refresh_statistics(plain, part.images)
    facts = inactive(network, plain, part.images)
    points = prune(plain, part, chosen, seed)
    return {
        "points": points,
        "seconds": {"training": trained - began, "pruning": time.perf_counter() - trained},
    } | facts


@torch.no_grad()
def refresh_statistics(network: nn.Module, images: Tensor) -> None:
    """Batch normalisation's mean and variance without the noise of training, from these images. Others: nothing."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        return
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average over all passes
    network.train()
    for part in images.split(500):
        network(part)
    for layer, momentum in zip(layers, before):
        layer.momentum = momentum


@torch.no_grad()
def inactive(network: nn.Sequential, plain: nn.Sequential, images: Tensor) -> dict[str, Any]:
    """By group of neurons: how many there are and never fire; and mean log sigma of those that never fire and of the
    others in the stochastic layers, None where there is no such neuron."""
    silent = never_firing(plain, images)
    logs: dict[bool, list[Tensor]] = {True: [], False: []}
    x = images[:500]
    plain.eval()
    for place, (module, noiseless) in enumerate(zip(network, plain)):
        if isinstance(module, noisy.NoisyModule):
            # softplus of very negative values is 0 in float32.
            deviation = module.gaussian(x)[1].clamp_min(torch.finfo(torch.float32).tiny)
            log_sigma = deviation.log().transpose(0, 1).flatten(1).mean(1)
            logs[True].append(log_sigma[silent[place]])
            logs[False].append(log_sigma[~silent[place]])
        x = noiseless(x)
    means = {key: torch.cat(values).double().mean() if values else None for key, values in logs.items()}
    found = {key: None if value is None or bool(value.isnan()) else float(value) for key, value in means.items()}
    return {
        "neurons": [len(mask) for mask in silent.values()],
        "never_firing": [int(mask.sum()) for mask in silent.values()],
        "log_sigma": {"never firing": found[True], "firing": found[False]},
    }


def prune(network: nn.Sequential, part: Split, chosen: PruningSettings, seed: int) -> list[dict[str, Any]]:
    """Prunes a deterministic network in place until its multiplications are at most the target share of those it had.

    Returns points: stage (WHOLE; ACTIVE, after the inactive went; LOOP; END, after the last fine-tuning), widths, what
    ``cost`` says, validation_error and test_error as fractions, and test_changed: the share of test images whose class
    differs from the unpruned network's. It stops before the target where every layer is down to one neuron.
    """
    shape = tuple(part.images.shape[1:])
    surgeon = Surgeon(network, shape)
    at_first = predict(network, part.test_images)
    points: list[dict[str, Any]] = []

    def point(stage: str) -> None:
        now = predict(network, part.test_images)
        held = predict(network, part.validation_images)
        points.append(
            {
                "stage": stage,
                "widths": networks.widths(network),
                **asdict(cost(network, shape)),
                "validation_error": float((held != part.validation_labels).double().mean()),
                "test_error": float((now != part.test_labels).double().mean()),
                "test_changed": float((now != at_first).double().mean()),
            }
        )

    point(WHOLE)
    goal = chosen.target * points[0]["multiplications"]
    surgeon.remove(never_firing(network, part.images))
    point(ACTIVE)
    batches = _batches(len(part.labels), chosen.batch_size, seed)
    turn = 0
    while cost(network, shape).multiplications > goal:
        scores = fine_tune(network, part, chosen.updates, chosen.tune_lr, batches)
        if turn and turn % chosen.every == 0:
            point(LOOP)
        at_once = max(1, round(chosen.at_once * sum(networks.widths(network))))
        if not surgeon.remove(least(worth(scores, network, shape, chosen.flops_weight), at_once)):
            break
        turn += 1
    updates = chosen.last_epochs * -(-len(part.labels) // chosen.batch_size)
    fine_tune(network, part, updates, chosen.tune_lr, batches, falling=True)
    point(END)
    return points


def worth(
    scores: dict[int, Tensor], network: nn.Sequential, shape: tuple[int, int, int], weight: float
) -> dict[int, Tensor]:
    """Scores less `weight` times the share of the multiplications that go with a neuron: the FLOPs regularization of
    Molchanov et al., 2017b, who take their number."""
    shares = saved(network, shape)
    return {place: score - weight * shares[place] for place, score in scores.items()}


def _batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Batches without end, each image once before any comes again."""
    order = torch.Generator().manual_seed(seed + 2**35)
    while True:
        yield from torch.randperm(count, generator=order).split(size)


def fine_tune(
    network: nn.Sequential, part: Split, updates: int, lr: float, batches: Iterator[Tensor], falling: bool = False
) -> dict[int, Tensor]:
    """SGD with momentum on the cross entropy; returns the importance of neurons, seen on the way (``Taylor.scores``).

    falling: whether the learning rate falls linearly to zero. A new optimizer each time: the parameters are new.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    taylor = Taylor()
    network.train()
    with taylor.watching(network):
        for step in range(updates):
            if falling:
                optimizer.param_groups[0]["lr"] = lr * (1 - step / updates)
            batch = next(batches).to(part.labels.device)
            optimizer.zero_grad()
            cross_entropy(network(part.images[batch]), part.labels[batch]).backward()
            taylor.add()
            optimizer.step()
    return taylor.scores()
