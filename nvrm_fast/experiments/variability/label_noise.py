"""Robustness to noisy labels: the same network trained by SGD and by NVRM-SGD on real images with wrong labels.

The paper's experiment 3 (section 4, Figure 3; symmetric flips: Figure 10). A share of the training labels is flipped,
the test labels are right. At each seed all optimizers start from the same weights, see the same wrong labels and the
same batches. Everything is measured on clean weights, after each epoch.

Presets: demo, the smallest picture of the effect, at one rate; quick, all rates of both kinds of flips, small
(--optimizers SGD NVRM-SGD Adam SAM IVON has the others beside); paper, ResNet-34 as in appendix C.1; tiny, to see that
everything runs.

Written to --out: table.md, curves.png (or one for each kind of flips) and results.json (settings, versions and all
numbers of every epoch); runs.jsonl has each finished run, so that a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nvrm_fast.experiments import label_flips, report, settings
from nvrm_fast.experiments.optimizers import ADAM, IVON, NVRM_SGD, OPTIMIZERS, SAM, SGD
from nvrm_fast.experiments.settings import option
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

NAME = "label-noise"
HELP = "SGD against NVRM-SGD on wrong labels (paper, Figures 3 and 10)"
BOTH = ("asymmetric", "symmetric")
RATES = {"asymmetric": (0.1, 0.2, 0.3, 0.4), "symmetric": (0.2, 0.4, 0.6, 0.8), "patterned": (0.1, 0.2, 0.3, 0.4)}
EVERYONE = (SGD, NVRM_SGD, ADAM, SAM, IVON)
PANELS = (("test_accuracy", "Test accuracy"), ("train_accuracy", "Training accuracy on the corrupted labels"))


@dataclass(frozen=True)
class LabelSettings(GridSettings):
    """The options of label-noise."""

    PRESETS = {
        "demo": {},
        "quick": quick(noise_kind=BOTH, noise_rate=None, seeds=2),
        "paper": paper(noise_kind=BOTH, noise_rate=None),
        "tiny": tiny(noise_kind=BOTH, noise_rate=(0.4,), optimizers=EVERYONE),
    }

    preset: str = option("demo", "named values of all other options", choices=tuple(PRESETS))
    noise_kind: tuple[str, ...] = option(
        ("asymmetric",), "how labels are flipped, one or more", nargs="+", choices=tuple(label_flips.KINDS)
    )
    noise_rate: tuple[float, ...] | None = option(
        (0.4,), "probability that a training label is flipped, one or more (None: the paper's for each kind)",
        type=float, nargs="+", metavar="RATE",
        check=(lambda rates: all(0 <= rate < 1 for rate in rates), "from 0 up to, but not including, 1"),
    )  # fmt: skip
    optimizers: tuple[str, ...] = option((SGD, NVRM_SGD), "who is compared", nargs="+", choices=OPTIMIZERS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=LabelSettings)
    parser.add_argument(
        "--out", default="runs/label-noise", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the study, print the table and write the results."""
    chosen = settings.from_arguments(arguments, LabelSettings)
    folder = report.output_folder(arguments.out)
    cells = [
        cell(chosen, optimizer, noise_kind=kind, noise_rate=rate)
        for kind in chosen.noise_kind
        for rate in chosen.noise_rate or RATES[kind]
        for optimizer in chosen.optimizers
    ]
    results = run_grid(NAME, folder, chosen, cells, ("noise_kind", "noise_rate", "optimizers"))
    table = results_table(results, {"flips": flips})
    figures = draw(results, chosen, folder)
    save(NAME, folder, chosen, results, f"{describe(chosen)}:\n\n{table}", figures)


def flips(place: dict) -> str:
    """``asymmetric, 40 %``."""
    return f"{place['noise_kind']}, {100 * place['noise_rate']:g} %"


def draw(results: Sequence[Result], chosen: LabelSettings, folder: Path) -> str:
    """A figure for each kind of flips, as the paper has Figures 3 and 10; returns their names, in words.

    Test accuracy and training accuracy on corrupted labels against epochs: a column for each rate, or both panels side
    by side where there is only one.
    """
    kinds: dict[str, list[Result]] = {}
    for one in results:
        kinds.setdefault(one.cell.place["noise_kind"], []).append(one)
    names = []
    for kind, mine in kinds.items():
        names.append("curves.png" if len(kinds) == 1 else f"curves-{kind}.png")
        _draw_kind(kind, mine, chosen, folder / names[-1])
    return ", ".join(names)


def _draw_kind(kind: str, results: Sequence[Result], chosen: LabelSettings, path: Path) -> None:
    columns: dict[float, list[Result]] = {}
    for one in results:
        columns.setdefault(one.cell.place["noise_rate"], []).append(one)
    alone = len(columns) == 1
    shape = (1, 2) if alone else (2, len(columns))
    figure, panels = drawing.new_figure(
        *shape, width=9.6 if alone else 3.1 * len(columns) + 0.6, height=4.2 if alone else 6.2,
        sharex=True, **({} if alone else {"sharey": "row"}),
    )  # fmt: skip
    for number, (rate, mine) in enumerate(columns.items()):
        for row, (measure, heading) in enumerate(PANELS):
            panel = panels[0, row] if alone else panels[row, number]
            for one in mine:
                curves = [getattr(run, measure) for run in one.runs]
                drawing.over_epochs(panel, curves, drawing.COLORS[one.cell.optimizer], one.cell.optimizer)
            if measure == "train_accuracy":
                drawing.right_labels(panel, rate, told=alone)
            title = heading if alone else f"{100 * rate:g} % flipped" if row == 0 else ""
            drawing.dress(panel, title, "epoch", "" if alone or number else heading)
            drawing.mark_drops(panel, chosen.drops, chosen.epochs, told=alone)
            if alone:
                ends = {one.cell.optimizer: 100 * statistics.fmean(one.last(measure)) for one in mine}
                drawing.name_lines(panel, ends, chosen.epochs)
    if not alone:
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    what = f"{100 * next(iter(columns)):g} % of the training labels flipped ({kind})" if alone else f"{kind} flips"
    drawing.save(
        figure,
        path,
        f"{chosen.data}, {what}, {chosen.network}, b = {chosen.variability:g}, {chosen.seeds} "
        f"seed{'s' * (chosen.seeds > 1)}",
    )
