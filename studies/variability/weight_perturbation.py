"""Robustness to weight perturbation: accuracy against Gaussian noise on the weights, after SGD and after NVRM-SGD.

The paper's experiment 1 (section 4, Figures 1 and 8), on right labels. Each network is trained, its noise is taken off,
and then the weights of perturbed copies are drawn around it; see `nvrm_fast.probe`. Beside the curves stand numbers for
the theory: delta of Definition 1 on the training images, with 95 % intervals, the bounds of Theorems 2.2 and B.2, and
the mean size of a weight, since a network with larger weights feels the same noise less.

The preset paper is ResNet-34 as in appendix C.1, on CIFAR-10 or with --data cifar100; for its other networks, which it
trains without momentum: --network vgg16 --momentum 0 (or mobilenetv2).

Written to --out: table.md, perturbation.png and results.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast.probe import (
    NeuralVariability,
    accuracy_against_noise,
    mutual_information_bound,
    neural_variabilities,
    pac_bayes_bound,
    squared_distance,
    weight_count,
    zero_one_loss,
)
from studies import StudyError, models
from studies.optimizers import NVRM_SGD, SGD
from studies.seeds import derive
from studies.settings import SOME, Count, NotNegative, Positive
from studies.study import Report, Row
from studies.variability import perturbation_report, training
from studies.variability.training import Problem, TrainingSettings, TrainingStudy

LOSSES = {"cross_entropy": cross_entropy, "errors": zero_one_loss}


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation(TrainingStudy):
    """The settings of weight-perturbation."""

    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.02, 0.05, 0.07)
    """b that NVRM-SGD trains with, one or more"""
    scales: Annotated[tuple[Positive, ...], SOME] = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2)
    """noise on trained weights, before the test images"""
    samples: Count = 16
    """perturbed networks for each of --scales"""
    train_scales: Annotated[tuple[Positive, ...], SOME] = (0.02, 0.05, 0.1)
    """noise on trained weights, before the training images: b of delta and the bounds"""
    train_samples: Annotated[int, Field(ge=2)] = 16
    """perturbed networks for each of --train-scales"""

    presets = {
        "tiny": training.tiny(
            variability=(0.02,), scales=(0.05, 0.2), samples=2, train_scales=(0.05,), train_samples=2
        ),
        "quick": training.quick(weight_decay=1e-4),
        "paper": training.paper(
            variability=(0.01, 0.05), scales=(0.01, 0.012, 0.014, 0.016, 0.018, 0.02), train_scales=(0.01, 0.02)
        ),
    }
    optimizers = (SGD, NVRM_SGD)
    axes = {"way": "ways"}
    extends = ("variability",)

    def measure(self, network: nn.Module, problem: Problem, settings: TrainingSettings, seed: int) -> dict[str, Any]:
        """All measures of a trained network on clean weights, as plain values; its mode is evaluation afterwards.

        Raises:
            StudyError: if a weight is not finite.
        """
        if not all(bool(weight.isfinite().all()) for weight in network.parameters()):
            raise StudyError(
                f"a network (seed {seed}, b = {settings.variability:g}) diverged: choose a smaller --lr or b; finished "
                "runs are kept"
            )
        network.eval()
        noise = {"seed": derive(seed, "perturbed copies"), "batch_size": 500}
        test = problem.test_images, problem.test_labels
        train = problem.train_images, problem.train_labels
        curve = accuracy_against_noise(network, test, self.scales, samples=self.samples, **noise)
        found = neural_variabilities(network, LOSSES, train, self.train_scales, samples=self.train_samples, **noise)
        risks = accuracy_against_noise(
            network, test, self.train_scales, samples=self.train_samples, measured=zero_one_loss, **noise
        )
        shape = tuple(problem.train_images.shape[1:])
        start = models.build(settings.network, shape, problem.classes, settings.width, seed=derive(seed, "weights"))
        weights, distance = weight_count(network), squared_distance(network, start)
        return {
            "weights": weights,
            "root_mean_square_weight": math.sqrt(squared_distance(network) / weights),
            "distance_from_start": math.sqrt(distance),
            "accuracy": rows(curve.values),
            "deltas": {name: [plain(one) for one in results] for name, results in found.items()},
            "test_errors": risks.mean.tolist(),
            "bounds": [_bounds(network, start, distance, one, settings.weight_decay) for one in found["errors"]],
        }

    def report(self, rows: list[Row]) -> Report:
        """The tables and the figure."""
        figure = perturbation_report.draw(self, rows)
        return Report(perturbation_report.describe(self, rows), {"perturbation.png": figure})


def _bounds(
    network: nn.Module, start: nn.Module, distance: float, found: NeuralVariability, weight_decay: float
) -> dict[str, Any]:
    """Theorem 2.2 with the paper's prior (None without weight decay) and with one of width b round the start;
    Theorem B.2."""
    near = pac_bayes_bound(network, found, sigma=found.b, start=start)
    information = mutual_information_bound(
        distance, weight_count(network), b=found.b, examples=found.examples, delta=found.delta_interval[1]
    )
    decayed = pac_bayes_bound(network, found, sigma=weight_decay**-0.5) if weight_decay > 0 else None
    return {
        "pac_bayes": None if decayed is None else {"kl": decayed.kl, "bound": decayed.bound},
        "pac_bayes_near_start": {"kl": near.kl, "bound": near.bound},
        "mutual_information": {"nats": information.information, "bound": information.bound},
    }


def plain(found: NeuralVariability) -> dict[str, Any]:
    """A result as JSON values; None where a loss was not finite."""
    low, high = (end if math.isfinite(end) else None for end in found.interval)
    difference = found.difference if math.isfinite(found.difference) else None
    return {"b": found.b, "clean": found.clean_loss, "difference": difference, "low": low, "high": high}


def rows(values: Tensor) -> list[list[float]]:
    """(scales, samples) as lists, in the digits that shares of a few thousand images have."""
    return [[round(value, 6) for value in row] for row in values.tolist()]
