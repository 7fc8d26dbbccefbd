"""What the study of attacks measures of one trained network: accuracies, fractions, in the modes "mean" and "sample".

In the mode "mean" the mean of the stochastic layer is passed on, the paper's way of testing; in the mode "sample" each
prediction is that of one fresh draw, and the accuracy is averaged over SAMPLES of them.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from studies.fit import seeded
from studies.seeds import derive, shuffled
from studies.stochastic.attacks.library import (
    ExpectedFGS,
    ExpectedPGD,
    carlini_wagner,
    expected_gradient,
    margins,
    perturb,
    sampled_logits,
)

SAMPLES = 10
FGS, PGD, PGD_MARGIN = "FGS, expected gradient", "PGD, expected gradient", "PGD, expected gradient of the margin"
FGS_ONE, FGS_MEAN, PGD_MEAN = "FGS, gradient of one draw", "FGS on the mean network", "PGD on the mean network"
FGS_MANY, FGS_MARGIN = "FGS, expected gradient, many draws", "FGS, expected gradient of the margin"
TRANSFER, GREY = "FGS on a baseline, transferred", "every pixel towards grey, no gradient"
#: Attacks of the closer look, in the order of the table.
LOOKS = (FGS_ONE, FGS, FGS_MANY, FGS_MARGIN, FGS_MEAN, TRANSFER, PGD, PGD_MARGIN, PGD_MEAN, GREY)
CW, CW_CONFIDENT, CW_MEAN = "CW, expected gradient", "CW, expected gradient, confident", "CW on the mean network"
#: How many deviations over draws of its margin a network's confident attack aims beyond the boundary.
CONFIDENCE = 2.0


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Of images (N, ...), by mode."""
    right = {"mean": 0.0, "sample": 0.0}
    for x, y in zip(images.split(1000), labels.split(1000)):
        with noisy.noise_mode(network, "mean"):
            right["mean"] += float((network(x).argmax(1) == y).sum())
        with noisy.noise_mode(network, "sample"):
            agrees = sampled_logits(network, x, SAMPLES).argmax(2) == y
        right["sample"] += float(agrees.double().mean(0).sum())
    return {mode: count / len(labels) for mode, count in right.items()}


def some(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """So many test images at most, the same for every network: test sets may be sorted by class."""
    chosen = shuffled(labels, 0, "some images")[:count]
    return images[chosen], labels[chosen]


def closer_look(
    network: nn.Module, images: Tensor, labels: Tensor, effort: Any, surrogate: nn.Module | None
) -> list[dict[str, Any]]:
    """Whether a network withstands, or only hides its gradient: accuracies under each attack that makes sense for it.

    surrogate: an undefended network, whose attacked images are carried over; None: there is none. For an undefended
    network that is another one, from other weights: what transfer does where there is no defence. A network without
    noise has no row for attacks that differ only in their draws.
    """
    draws, steps = effort.draws, effort.pgd_steps
    attacks = {
        FGS: ("sample", ExpectedFGS(network, draws)),
        FGS_MARGIN: ("sample", ExpectedFGS(network, draws, margins)),
        PGD: ("sample", ExpectedPGD(network, draws, steps)),
        PGD_MARGIN: ("sample", ExpectedPGD(network, draws, steps, margins)),
    }
    if noisy.noisy_modules(network):
        attacks[FGS_MANY] = ("sample", ExpectedFGS(network, effort.many_draws))
        attacks[FGS_ONE] = ("sample", ExpectedFGS(network, 1))
        attacks[FGS_MEAN] = ("mean", ExpectedFGS(network, 1))
        attacks[PGD_MEAN] = ("mean", ExpectedPGD(network, 1, steps))
    if surrogate is not None:
        attacks[TRANSFER] = ("sample", ExpectedFGS(surrogate, 1))
    rows = []
    for epsilon, name in itertools.product(effort.look_epsilons, LOOKS):
        if name == GREY:
            moved = images + (0.5 - images).clamp(-epsilon, epsilon)
        elif name in attacks:
            mode, attack = attacks[name]
            with noisy.noise_mode(attack.network, mode):
                moved = perturb(attack, images, labels, epsilon)
        else:
            continue
        rows.append({"attack": name, "epsilon": epsilon} | accuracy(network, moved, labels))
    return rows


def zero_gradients(network: nn.Module, images: Tensor, labels: Tensor, draws: int) -> float:
    """Share of images whose expected gradient is exactly zero, where FGS cannot move."""
    with noisy.noise_mode(network, "sample"):
        gradients = [
            expected_gradient(network, x, y, draws).flatten(1).abs().amax(1)
            for x, y in zip(images.split(1000), labels.split(1000))
        ]
    return float((torch.cat(gradients) == 0).double().mean())


@torch.no_grad()
def margin_deviation(network: nn.Module, images: Tensor, labels: Tensor, draws: int = 50) -> float:
    """Standard deviation over draws of the margin of clean images, averaged over images; 0 without noise."""
    with noisy.noise_mode(network, "sample"):
        logits = sampled_logits(network, images, draws)
    if len(logits) == 1:
        return 0.0
    return float(
        margins(logits.flatten(0, 1), labels.repeat(len(logits))).unflatten(0, (-1, len(labels))).std(0).mean()
    )


def carlini_wagner_rows(network: nn.Module, images: Tensor, labels: Tensor, effort: Any) -> list[dict[str, Any]]:
    """CW-L2 by expected gradients, the same beyond the boundary by CONFIDENCE deviations, and on the mean network.

    found: share of images for which an iterate was misclassified during the attack. distance: their mean L2, None where
    there are none. mean, sample: accuracies on all images afterwards, with fresh noise.
    """
    attacks = [(CW, "sample", 0.0)]
    if noisy.noisy_modules(network):
        confidence = CONFIDENCE * margin_deviation(network, images, labels)
        attacks += [(CW_CONFIDENT, "sample", confidence), (CW_MEAN, "mean", 0.0)]
    rows = []
    for name, mode, confidence in attacks:
        with noisy.noise_mode(network, mode):
            result = carlini_wagner(
                network, images, labels, draws=effort.draws, steps=effort.cw_steps, searches=effort.cw_searches,
                stepsize=effort.cw_stepsize, confidence=confidence,
            )  # fmt: skip
        rows.append(
            {
                "attack": name,
                "confidence": confidence,
                "found": float(result.found.double().mean()),
                "distance": float(result.distance[result.found].mean()) if bool(result.found.any()) else None,
            }
            | accuracy(network, result.images, labels)
        )
    return rows


def measure(
    network: nn.Module, images: Tensor, labels: Tensor, effort: Any, *, seed: int, with_cw: bool,
    surrogate: nn.Module | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything of one network, whose noise must have no regularizer; global generators are untouched."""
    few, cw = some(images, labels, effort.look_images), some(images, labels, effort.cw_images)
    fgs = ExpectedFGS(network, effort.draws)  # the paper's attack
    with seeded(images.device, derive(seed, "attacks")):
        return {
            "fgs": [accuracy(network, perturb(fgs, images, labels, epsilon), labels) for epsilon in effort.epsilons],
            "zero_gradients": zero_gradients(network, images, labels, effort.draws),
            "looks": closer_look(network, *few, effort, surrogate),
            "cw": carlini_wagner_rows(network, *cw, effort) if with_cw else [],
        }
