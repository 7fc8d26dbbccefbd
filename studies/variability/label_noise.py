"""Robustness to noisy labels: the same network trained by SGD and by NVRM-SGD on real images with wrong labels.

The paper's experiment 3 (section 4, Figure 3; symmetric flips: Figure 10). A share of the training labels is flipped,
the test labels are right. At each seed all optimizers start from the same weights, see the same wrong labels and the
same batches. Everything is measured on clean weights, after each epoch; the expected calibration error (15 bins) once,
after the last.

The quick preset is the smallest picture of the effect, at one rate and the weight decay that label-noise-sweep chose.
The preset long has all rates of both kinds of flips, the paper's weight decay beside that one, and several b. The
paper's preset is ResNet-34 as in appendix C.1.

Written to --out: table.md, curves.png (or one for each kind of flips and weight decay) and results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from matplotlib.figure import Figure
from torch import nn

from studies import figures, fit, tables
from studies.labels import Kind
from studies.optimizers import ADAM, ANTI_PGD, IVON, M_RWP, MSAM, NOISY, NVRM_SGD, SAM, SGD, OptimizerName
from studies.settings import SOME, Count, NotNegative, Share
from studies.study import Report, Row
from studies.variability import looks, training
from studies.variability.training import TrainingStudy

RATES = {"asymmetric": (0.1, 0.2, 0.3, 0.4), "symmetric": (0.2, 0.4, 0.6, 0.8), "patterned": (0.1, 0.2, 0.3, 0.4)}
BOTH = ("asymmetric", "symmetric")
BANDS = ": mean and, as bands, one standard deviation"
PANELS = (("test_accuracy", "Test accuracy"), ("train_accuracy", "Training accuracy on the corrupted labels"))


@dataclass(frozen=True, kw_only=True)
class LabelNoise(TrainingStudy):
    """The settings of label-noise."""

    seeds: Count = 5
    """how many seeds: initialization, flipped labels, batch order and weight noise"""
    noise_kind: tuple[Kind, ...] = ("asymmetric",)
    """how labels are flipped, one or more"""
    noise_rate: tuple[Share, ...] | None = (0.4,)
    """probability that a training label is flipped, one or more (None: the paper's for each kind)"""
    weight_decay: Annotated[tuple[NotNegative, ...], SOME] = (1e-2,)
    """L2 penalties, one or more; the paper's is 1e-4, and 1e-2 what label-noise-sweep chose"""
    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.05,)
    """b of the optimizers with noise, one or more"""
    optimizers: tuple[OptimizerName, ...] = (SGD, NVRM_SGD)
    """what is compared"""

    presets = {
        "tiny": training.tiny(noise_kind=BOTH, optimizers=(SGD, NVRM_SGD, ADAM, SAM, IVON, ANTI_PGD, M_RWP, MSAM)),
        "quick": {},
        "long": training.long(
            noise_kind=BOTH, noise_rate=None, weight_decay=(1e-4, 1e-2), variability=(0.02, 0.03, 0.05)
        ),
        "paper": training.paper(weight_decay=(1e-4,), noise_kind=BOTH, noise_rate=None),
    }
    extends = ("noise_kind", "noise_rate", "weight_decay", "variability", "optimizers")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first, then kinds, rates, weight decays and optimizers, those with noise at each b."""
        for seed, kind in itertools.product(range(self.seeds), self.noise_kind):
            rates = self.noise_rate or RATES[kind]
            for rate, decay, way in itertools.product(rates, self.weight_decay, self.ways):
                yield way | {"noise_kind": kind, "noise_rate": rate, "weight_decay": decay, "seed": seed}

    def measure(self, network: nn.Module, problem: training.Problem, *how: Any) -> dict[str, Any]:
        """The calibration error on the test images, after the last epoch."""
        return {"calibration_error": fit.calibration_error(network, problem.test_images, problem.test_labels)}

    def report(self, rows: list[Row]) -> Report:
        """The table, the differences from SGD at the same weight decay, and a figure for each kind of flips and weight
        decay, as the paper has Figures 3 and 10."""
        rows = sorted(rows, key=lambda row: self.noise_kind.index(row["noise_kind"]))
        same = ["noise_kind", "noise_rate", "weight_decay"]
        flips = tables.words(lambda row: f"{row['noise_kind']}, {100 * row['noise_rate']:g} %")
        place = {"flips": flips, "weight decay": "weight_decay", "b": "variability"}
        measured = {}
        if all("calibration_error" in row.get("measured", {}) for row in rows):  # results of earlier versions have none
            error = tables.shares(lambda row: row["measured"]["calibration_error"])
            measured["expected calibration error"] = error
        text = training.report_text(self, rows, [*same, "variability"], same, place, measured)
        drawn = {}
        for (kind, decay), mine in tables.groups(rows, "noise_kind", "weight_decay").items():
            several = [kind] * (len(self.noise_kind) > 1) + [f"{decay:g}"] * (len(self.weight_decay) > 1)
            drawn["-".join(["curves", *several]) + ".png"] = draw(self, kind, decay, mine)
        return Report(text, drawn, conclusion=conclusion(rows))


def conclusion(rows: list[Row]) -> str:
    """One sentence where the rows are of one problem and one b; otherwise the table says it."""
    ways = tables.groups([row for row in rows if row["optimizer"] in (SGD, NVRM_SGD)], "optimizer", "variability")
    problems = tables.groups(rows, "noise_kind", "noise_rate", "weight_decay")
    if len(problems) > 1 or sorted(name for name, _ in ways) != [NVRM_SGD, SGD]:
        return ""

    def told(runs: list[Row]) -> str:
        memorized = training.last(runs, "memorized")
        words = f"{tables.percent(list(map(training.accuracy, runs)))} % of the test images right"
        return words if None in memorized else f"{words} and repeats {tables.percent(memorized)} % of the wrong labels"

    (sgd,), (noisy,) = ([runs for (name, _), runs in ways.items() if name == which] for which in (SGD, NVRM_SGD))
    place = sgd[0]
    return (
        f"With {100 * place['noise_rate']:g} % of the training labels flipped ({place['noise_kind']}), {SGD} ends with "
        f"{told(sgd)}; {training.name(noisy[0])}, ends with {told(noisy)}."
    )


def draw(settings: LabelNoise, kind: str, decay: float, rows: list[Row]) -> Figure:
    """Test accuracy and training accuracy on corrupted labels against epochs: a column for each rate, or both panels
    side by side where there is only one."""
    rates = tables.groups(rows, "noise_rate")
    alone = len(rates) == 1
    share = (
        f"{100 * rows[0]['noise_rate']:g} % of the training labels are wrong" if alone else "Training labels are wrong"
    )
    figure, panels = figures.new_figure(
        *((1, 2) if alone else (2, len(rates))), width=9.6 if alone else max(9.6, 3.1 * len(rates) + 0.6),
        height=4.2 if alone else 6.2, sharex=True, sharey=False if alone else "row",
        title=f"{share} ({kind} flips): does the network learn them?\n"
        f"{looks.title(settings, settings.network, f'weight decay {decay:g}')}{BANDS * (settings.seeds > 1)}",
    )  # fmt: skip
    for column, ((rate,), mine) in enumerate(rates.items()):
        for row, (measure, heading) in enumerate(PANELS):
            panel = panels[0, row] if alone else panels[row, column]
            ways = tables.groups(mine, "optimizer", "variability")
            shades = iter(figures.SHADES)
            for (optimizer, _), runs in ways.items():
                several = optimizer in NOISY and len(settings.variability) > 1
                color = next(shades, figures.INK) if several else looks.COLORS[optimizer]
                curves = [run[measure] for run in runs]
                figures.over_epochs(panel, curves, color=color, label=training.name(runs[0]))
            if measure == "train_accuracy":
                looks.right_labels(panel, rate, told=alone)
            title = heading if alone else f"{100 * rate:g} % flipped" if row == 0 else ""
            figures.name_axes(panel, title, "epoch", "" if alone or column else heading)
            looks.mark_drops(panel, settings.drops, settings.epochs, told=alone)
            if alone:
                looks.name_lines(panel, settings.epochs)
    if not alone:
        figures.legend_below(figure, panels[0, 0])
    return figure
