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
from typing import Any

from studies.optimizers import NVRM_SGD, SGD
from studies.runner import Context, Report, Row, Study
from studies.variability import perturbation_report, training
from studies.variability.perturbations import Perturbations, WeightPerturbation


def cells(settings: WeightPerturbation) -> Iterator[dict[str, Any]]:
    """At each seed SGD, and NVRM-SGD at each b."""
    for seed in range(settings.seeds):
        for optimizer, b in ((SGD, 0.0), *((NVRM_SGD, b) for b in settings.variability)):
            yield {"optimizer": optimizer, "variability": b, "seed": seed}


def run(context: Context, *, optimizer: str, variability: float, seed: int) -> dict[str, Any]:
    """One training on right labels, and the measures of its network."""
    settings = context.settings
    problem = training.corrupt(context.prepared, "asymmetric", 0.0, seed)
    measure = Perturbations(settings.scales, settings.samples, settings.train_scales, settings.train_samples)
    trained = training.at(settings, variability=variability)
    return training.train(problem, trained, optimizer, seed, advance=context.advance, measure=measure)


def report(settings: WeightPerturbation, rows: list[Row]) -> Report:
    """The tables and the figure."""
    figure = perturbation_report.draw(settings, rows)
    return Report(perturbation_report.describe(settings, rows), {"perturbation.png": figure})


STUDY = Study(
    settings=WeightPerturbation,
    presets={
        "tiny": training.tiny(
            variability=(0.02,), scales=(0.05, 0.2), samples=2, train_scales=(0.05,), train_samples=2
        ),
        "quick": training.quick(weight_decay=1e-4),
        "paper": training.paper(
            variability=(0.01, 0.05), scales=(0.01, 0.012, 0.014, 0.016, 0.018, 0.02), train_scales=(0.01, 0.02)
        ),
    },
    cells=cells,
    run=run,
    report=report,
    extends=("variability",),
    summary=training.summary,
)
