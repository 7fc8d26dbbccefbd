"""Robustness to weight perturbation: accuracy against Gaussian noise on the weights, after SGD and after NVRM-SGD.

The paper's experiment 1 (section 4, Figures 1 and 8), on right labels. Each network is trained, its noise is taken off,
and then the weights of perturbed copies are drawn around it; see `nvrm_fast.probe`. Beside the curves stand numbers for
the theory: delta of Definition 1 on the training images, with 95 % intervals, the bounds of Theorems 2.2 and B.2, and
the mean size of a weight, since a network with larger weights feels the same noise less.

Presets: quick, minutes on two cores; paper (ResNet-34), paper-vgg16 and paper-mobilenetv2 as in appendix C.1, each on
CIFAR-10 or with --data cifar100; tiny, to see that everything runs.

Written to --out: table.md, perturbation.png and results.json; runs.jsonl has each finished run, so that a study that
was stopped goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, ClassVar

from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.optimizers import NVRM_SGD, SGD
from nvrm_fast.experiments.settings import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, option
from nvrm_fast.experiments.variability.grid import GridSettings, cell, paper, quick, run_grid, save, tiny
from nvrm_fast.experiments.variability.perturbation import report as perturbation_report
from nvrm_fast.experiments.variability.perturbation.measures import Perturbations

NAME = "weight-perturbation"
HELP = "test accuracy against noise on the weights, delta and bounds (paper, Figures 1 and 8)"

_PAPER_SCALES = (0.01, 0.012, 0.014, 0.016, 0.018, 0.02)
_PAPER = {"variabilities": (0.01, 0.05), "scales": _PAPER_SCALES, "train_scales": (0.01, 0.02)}


def _scales(default: tuple[float, ...], what: str, check: Any) -> Any:
    return option(
        default, what, type=float, nargs="+", metavar="B",
        check=(lambda values: len(values) > 0 and all(check[0](value) for value in values), check[1]),
    )  # fmt: skip


@dataclass(frozen=True)
class PerturbationSettings(GridSettings):
    """The options of weight-perturbation."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": quick(weight_decay=1e-4),
        "paper": paper(**_PAPER),
        # Appendix C.1: no momentum for these two in this experiment.
        "paper-vgg16": paper(network="vgg16", momentum=0.0, **_PAPER),
        "paper-mobilenetv2": paper(network="mobilenetv2", momentum=0.0, **_PAPER),
        "tiny": tiny(variabilities=(0.02,), scales=(0.05, 0.2), samples=2, train_scales=(0.05,), train_samples=2),
    }

    preset: str = option("quick", "named values of all other options", choices=tuple(PRESETS))
    noise_rate: float = option(
        0.0, "probability that a training label is flipped", type=float,
        check=(lambda rate: 0 <= rate < 1, "from 0 up to, but not including, 1"),
    )  # fmt: skip
    variabilities: tuple[float, ...] = _scales((0.02, 0.05, 0.07), "b that NVRM-SGD trains with", NOT_NEGATIVE)
    scales: tuple[float, ...] = _scales(
        (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2), "noise on trained weights, before the test images", POSITIVE
    )
    samples: int = option(16, "perturbed networks for each of --scales", type=int, check=AT_LEAST_ONE)
    train_scales: tuple[float, ...] = _scales(
        (0.02, 0.05, 0.1), "noise on trained weights, before the training images: b of delta and the bounds", POSITIVE
    )
    train_samples: int = option(
        16, "perturbed networks for each of --train-scales", type=int, check=(lambda n: n >= 2, "2 or more")
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=PerturbationSettings, without=("variability", "noise_rate", "noise_kind"))
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the study, print the tables and write the results."""
    chosen = settings.from_arguments(arguments, PerturbationSettings)
    folder = report.output_folder(arguments.out)
    cells = [cell(chosen, SGD, variability=0.0)]
    cells += [cell(chosen, NVRM_SGD, variability=b) for b in chosen.variabilities]
    measures = Perturbations(chosen.scales, chosen.samples, chosen.train_scales, chosen.train_samples)
    results = run_grid(NAME, folder, chosen, cells, ("variabilities",), measures)
    text = perturbation_report.describe(results, chosen)
    perturbation_report.draw(results, chosen, folder / "perturbation.png")
    save(NAME, folder, chosen, results, text, "perturbation.png")
