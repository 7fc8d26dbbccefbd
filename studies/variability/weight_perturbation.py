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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from studies.optimizers import NVRM_SGD, SGD
from studies.settings import SOME, Count, NotNegative, Positive
from studies.study import Report, Row
from studies.variability import perturbation_report, training
from studies.variability.perturbations import Perturbations
from studies.variability.training import TrainingStudy


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
    extends = ("variability",)

    def cells(self) -> Iterator[dict[str, Any]]:
        """At each seed SGD, and NVRM-SGD at each b."""
        for seed in range(self.seeds):
            for optimizer, b in ((SGD, 0.0), *((NVRM_SGD, b) for b in self.variability)):
                yield {"optimizer": optimizer, "variability": b, "seed": seed}

    @property
    def measure(self) -> Perturbations:
        return Perturbations(self.scales, self.samples, self.train_scales, self.train_samples)

    def report(self, rows: list[Row]) -> Report:
        """The tables and the figure."""
        figure = perturbation_report.draw(self, rows)
        return Report(perturbation_report.describe(self, rows), {"perturbation.png": figure})
