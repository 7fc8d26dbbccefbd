"""Improved generalization: the gap between training and test accuracy under SGD and NVRM-SGD at several b.

The paper's experiment 2 (section 4, Figures 2 and 9), on right labels: VGG-16 on CIFAR-10 and MobileNetV2 on CIFAR-100
there. SAM and IVON stand beside as what a user would pick instead. With --preset paper choose the other half of the
figures by --data cifar100 --network mobilenetv2.

Written to --out: table.md, curves.png and results.json; runs.jsonl has each finished run, so that a study that was
stopped goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.optimizers import ADAM, IVON, NOISY, NVRM_SGD, OPTIMIZERS, SAM, SGD
from nvrm_fast.experiments.settings import NOT_NEGATIVE, option
from nvrm_fast.experiments.variability import drawing
from nvrm_fast.experiments.variability.grid import (
    GridSettings,
    Result,
    cell,
    describe,
    paper,
    quick,
    run_grid,
    save,
    tiny,
)
from nvrm_fast.experiments.variability.tables import results_table

NAME = "generalization"
HELP = "generalization gap and test accuracy by b, on right labels (paper, Figures 2 and 9)"


@dataclass(frozen=True)
class GeneralizationSettings(GridSettings):
    """The options of generalization."""

    PRESETS = {
        "quick": quick(variabilities=(0.02, 0.05), weight_decay=1e-4),
        "paper": paper(network="vgg16", momentum=0.0),
        "tiny": tiny(variabilities=(0.02,)),
    }

    noise_rate: float = option(
        0.0, "probability that a training label is flipped", type=float,
        check=(lambda rate: 0 <= rate < 1, "from 0 up to, but not including, 1"),
    )  # fmt: skip
    variabilities: tuple[float, ...] = option(
        (0.01, 0.015, 0.02), "values of b", type=float, nargs="+", metavar="B",
        check=(lambda scales: all(NOT_NEGATIVE[0](scale) for scale in scales), NOT_NEGATIVE[1]),
    )  # fmt: skip
    optimizers: tuple[str, ...] = option(
        (SGD, NVRM_SGD, ADAM, SAM, IVON), "who is compared", nargs="+", choices=OPTIMIZERS
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=GeneralizationSettings, without=("variability", "noise_kind"))
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the study, print the table and write the results."""
    chosen = settings.from_arguments(arguments, GeneralizationSettings)
    folder = report.output_folder(arguments.out)
    cells = []
    for optimizer in chosen.optimizers:
        scales = chosen.variabilities if optimizer in NOISY else (0.0,)
        cells += [cell(chosen, optimizer, variability=scale) for scale in scales]
    results = run_grid(NAME, folder, chosen, cells, ("variabilities", "optimizers"))
    table = results_table(results, {"b": lambda place: f"{place['variability']:g}" if place["variability"] else "-"})
    draw(results, chosen, folder / "curves.png")
    save(NAME, folder, chosen, results, f"{describe(chosen)}:\n\n{table}", "curves.png")


def draw(results: Sequence[Result], chosen: GeneralizationSettings, path: Path) -> None:
    """Left the generalization gap, right the test accuracy, against epochs: the layout of Figures 2 and 9."""
    figure, panels = drawing.new_figure(1, 2, width=10.4, height=4.4, sharex=True)
    shades = iter(drawing.SHADES)
    for one in results:
        scale = one.cell.place["variability"]
        color = next(shades, drawing.INK) if one.cell.optimizer == NVRM_SGD else drawing.COLORS[one.cell.optimizer]
        label = f"{one.cell.optimizer}, b = {scale:g}" if scale else one.cell.optimizer
        gaps = [[a - b for a, b in zip(run.train_accuracy, run.test_accuracy)] for run in one.runs]
        drawing.over_epochs(panels[0, 0], gaps, color, label)
        drawing.over_epochs(panels[0, 1], [run.test_accuracy for run in one.runs], color)
    for panel, heading in zip(panels[0], ("Generalization gap", "Test accuracy")):
        drawing.dress(panel, heading, "epoch")
        drawing.mark_drops(panel, chosen.drops, chosen.epochs)
    # The first epochs would press the rest together.
    last = [100 * value for one in results for value in one.last("test_accuracy")]
    panels[0, 1].set_ylim(bottom=max(0.0, min(last) - 8))
    figure.legend(loc="outside lower center", ncols=min(len(results), 6), frameon=False, fontsize=9)
    title = f"{chosen.data}, {chosen.network}, {chosen.seeds} seed{'s' * (chosen.seeds > 1)}"
    drawing.save(figure, path, title)
