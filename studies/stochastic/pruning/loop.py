"""Training, then the paper's pipeline: inactive neurons in one go, then the least important one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from nvrm_fast import nn as noisy
from studies.data import ImageData
from studies.fit import descent, endless, falling, fit, now, predict, seeded
from studies.models import started
from studies.seeds import derive, held_out
from studies.stochastic.pruning import networks
from studies.stochastic.pruning.importance import Taylor, least, never_firing
from studies.stochastic.pruning.networks import cost, saved
from studies.stochastic.pruning.surgery import Branches, Surgeon
from studies.variability.training import corrupt

BASELINE, SE_SNN = "baseline", "SE-SNN"
WAY = ("weight", "margin", "criterion", "loop_noise")  # what tells runs of one method apart
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


def split(data: ImageData, settings: Any, seed: int) -> Split:
    """Flips labels of all training images, then holds some out: at least one, and not all."""
    problem = corrupt(data, "patterned", settings.noise_rate, seed)
    images, labels = problem.train_images, problem.train_labels
    held, used = held_out(labels, settings.validation, seed)
    return Split(images[used], labels[used], images[held], labels[held], data.test_images, data.test_labels)


def one_run(
    data: ImageData, settings: Any, *, method: str, weight: float, margin: float, seed: int,
    criterion: str = "taylor", loop_noise: bool = False,
    once: Callable[[str, Callable[[], Any]], Any] = lambda name, make: make(),
    advance: Callable[[float], object] = lambda share: None,
) -> dict[str, Any]:  # fmt: skip
    """Trains one network and prunes it: points of its way (see ``prune``), facts of ``inactive`` and seconds.

    settings: of the study. Methods at one seed have the same images, initial means and batches. once: makes what has
    this name for all runs that ask for it (``Context.once``).
    """
    part = split(data, settings, seed)
    network = started(
        networks.NETWORKS[settings.network], data.shape, data.classes, settings.width, seed=derive(seed, "weights")
    )
    if method == SE_SNN:
        network = networks.stochastic(
            network, seed=derive(seed, "deviations"), initial_deviation=settings.initial_deviation
        )
        if weight > 0:
            noisy.set_regularizer(network, noisy.MaxEntropy(settings.over, margin, settings.reduction))
    device = part.images.device
    network = network.to(device).train()

    def trained() -> dict[str, Any]:
        began = now(device)
        train(network, part, settings, weight if method == SE_SNN else 0.0, seed, advance)
        return {"weights": network.state_dict(), "seconds": now(device) - began}

    made = once(f"{method}-{weight}-{margin}-{seed}", trained)
    network.load_state_dict(made["weights"])
    began = now(device)
    with seeded(device, derive(seed, "weights")):  # new layers draw weights, only to be overwritten
        plain = noisy.to_plain(network)
    # Batch normalization's mean and variance without the noise of training.
    update_bn(part.images.split(500), plain.train())
    facts = inactive(network, plain, part.images)
    entropies = log_sigmas(network, plain, part.images) if criterion == "entropy" else None
    branches = None
    if loop_noise and method == SE_SNN:
        regularizer = noisy.MaxEntropy(settings.over, margin, settings.reduction)
        branches = Branches(network, plain, data.shape, regularizer, weight)
    points = prune(plain, part, settings, seed, entropies, branches)
    return {"points": points, "seconds": {"training": made["seconds"], "pruning": now(device) - began}} | facts


def train(
    network: nn.Module, part: Split, settings: Any, weight: float, seed: int, advance: Callable[[float], object]
) -> None:
    """Adam, noise in the mode "sample"; over the second half of the epochs the learning rate falls linearly to zero.
    weight: of the regularizer, 0 for none."""
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)
    schedule = falling(optimizer, settings.epochs)
    noisy.set_noise_mode(network, "sample")

    def loss_of(batch: Tensor) -> Tensor:
        value = cross_entropy(network(part.images[batch]), part.labels[batch])
        return value + weight * noisy.regularizer_loss(network) if weight > 0 else value

    for _ in fit(descent(optimizer, loss_of), len(part.labels), settings, seed, part.images.device):
        schedule.step()
        advance(0.5 / settings.epochs)


@torch.no_grad()
def inactive(network: nn.Sequential, plain: nn.Sequential, images: Tensor) -> dict[str, Any]:
    """By group of neurons: how many there are and never fire; and mean log sigma of those that never fire and of the
    others in the stochastic layers, None where there is no such neuron."""
    silent = never_firing(plain, images)
    logs: dict[bool, list[Tensor]] = {True: [], False: []}
    for place, log_sigma in log_sigmas(network, plain, images).items():
        logs[True].append(log_sigma[silent[place]])
        logs[False].append(log_sigma[~silent[place]])
    means = {key: torch.cat(values).double().mean() if values else None for key, values in logs.items()}
    found = {key: None if value is None or bool(value.isnan()) else float(value) for key, value in means.items()}
    return {
        "neurons": [len(mask) for mask in silent.values()],
        "never_firing": [int(mask.sum()) for mask in silent.values()],
        "log_sigma": {"never firing": found[True], "firing": found[False]},
    }


@torch.no_grad()
def log_sigmas(network: nn.Sequential, plain: nn.Sequential, images: Tensor) -> dict[int, Tensor]:
    """Mean log sigma of each neuron of the stochastic layers, by place, over 500 images that come to a layer without
    noise. It is a Gaussian's entropy up to a constant."""
    found = {}
    x = images[:500]
    plain.eval()
    for place, (module, noiseless) in enumerate(zip(network, plain)):
        if isinstance(module, noisy.NoisyModule):
            # softplus of very negative values is 0 in float32.
            deviation = module.gaussian(x)[1].clamp_min(torch.finfo(torch.float32).tiny)
            found[place] = deviation.log().transpose(0, 1).flatten(1).mean(1)
        x = noiseless(x)
    return found


def prune(
    network: nn.Sequential,
    part: Split,
    settings: Any,
    seed: int,
    entropies: dict[int, Tensor] | None = None,
    branches: Branches | None = None,
) -> list[dict[str, Any]]:
    """Prunes a deterministic network in place until its multiplications are at most the target share of those it had.
    entropies: of the neurons that it had when it was stochastic, by place; those of the largest go first, in the layers
    that have them, and the Taylor criterion is not looked at. None or empty: the Taylor criterion. branches: of the
    stochastic network whose means are pruned, if its noise and regularizer are on while it is fine-tuned; entropies are
    then those of each turn.

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
    goal = settings.target * points[0]["multiplications"]
    importances = {place: -entropy for place, entropy in (entropies or {}).items()}

    def remove(masks: dict[int, Tensor]) -> int:
        for place, mask in masks.items():
            if place in importances:
                stays = ~mask if not bool(mask.all()) else torch.arange(len(mask), device=mask.device) == 0
                importances[place] = importances[place][stays.to(importances[place].device)]
        if branches is not None:
            branches.remove(masks)
        return surgeon.remove(masks)

    def tuned(updates: int, to_zero: bool = False) -> dict[int, Tensor]:
        nonlocal importances
        if branches is None:
            return fine_tune(network, part, updates, settings.tune_lr, batches, to_zero)
        whole = branches.joined(network)
        # Noise draws from torch's generator.
        with seeded(part.labels.device, derive(seed, f"noise of turn {turn}")):
            scores = fine_tune(
                whole, part, updates, settings.tune_lr, batches, to_zero, weight=branches.weight, like=network
            )
        branches.take(whole, network)
        if importances:
            importances = {place: -entropy for place, entropy in log_sigmas(whole, network, part.images).items()}
        return scores

    remove(never_firing(network, part.images))
    point(ACTIVE)
    order = torch.Generator().manual_seed(derive(seed, "pruning"))
    batches = endless(len(part.labels), settings.batch_size, order)
    turn = 0
    while cost(network, shape).multiplications > goal:
        scores = tuned(settings.updates)
        if turn and turn % settings.every == 0:
            point(LOOP)
        at_once = max(1, round(settings.at_once * sum(networks.widths(network))))
        if not remove(least(worth(importances or scores, network, shape, settings.flops_weight), at_once)):
            break
        turn += 1
    updates = settings.last_epochs * -(-len(part.labels) // settings.batch_size)
    tuned(updates, to_zero=True)
    point(END)
    return points


def worth(
    scores: dict[int, Tensor], network: nn.Sequential, shape: tuple[int, int, int], weight: float
) -> dict[int, Tensor]:
    """Scores less `weight` times the share of the multiplications that go with a neuron: the FLOPs regularization of
    Molchanov et al., 2017b, who take their number."""
    shares = saved(network, shape)
    return {place: score - weight * shares[place] for place, score in scores.items()}


def fine_tune(
    network: nn.Sequential, part: Split, updates: int, lr: float, batches: Iterator[Tensor], to_zero: bool = False,
    *, weight: float = 0.0, like: nn.Sequential | None = None,
) -> dict[int, Tensor]:  # fmt: skip
    """SGD with momentum on the cross entropy; returns the importance of neurons, seen on the way (``Taylor.scores``).

    to_zero: whether the learning rate falls linearly to zero. A new optimizer each time: the parameters are new.
    weight: of the regularizer of stochastic layers. like: a deterministic network of the same layers, if this one is
    stochastic.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    taylor = Taylor()
    network.train()
    with taylor.watching(network, like):
        for step in range(updates):
            if to_zero:
                optimizer.param_groups[0]["lr"] = lr * (1 - step / updates)
            batch = next(batches).to(part.labels.device)
            optimizer.zero_grad()
            loss = cross_entropy(network(part.images[batch]), part.labels[batch])
            (loss + weight * noisy.regularizer_loss(network) if weight > 0 else loss).backward()
            taylor.add()
            optimizer.step()
    return taylor.scores()
