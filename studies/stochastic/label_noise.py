"""Robustness to patterned label noise of stochastic networks (SE-SNN, section 4.3 and appendices A and B).

Each class is flipped to one other class, drawn anew at each seed, with a probability from 0 to 0.5. A 784-128-128-10
network with both hidden layers stochastic and the sample-wise max-entropy regularizer (equation 6) against a baseline
of as many weights (a parallel layer beside each hidden one), bootstrapping, forward correction, and SE-SNN with forward
correction. At one seed all methods see the same labels and batches; accuracies are means of the last five epochs, for
they swing from one to the next, on clean test labels, in the mode "mean". No setting was chosen by the test set.

Written to --out: table.md, accuracy.png and results.json.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from studies import figures, tables
from studies.settings import Finite, NotNegative, Share
from studies.stochastic import label_training
from studies.stochastic.label_training import LabelStudy, Point
from studies.stochastic.methods import BASELINE, LOOKS, METHODS, MethodName
from studies.study import Context, Report, Row
from studies.tables import percent, plus_minus, select

#: Epochs at the end whose mean is taken: accuracies swing from one to the next.
LATE = 5
PAPER = "the paper, on all of MNIST at 40 %: baseline 81.04, SE-SNN 95.17"


@dataclass(frozen=True, kw_only=True)
class LabelNoise(LabelStudy):
    """The settings of stochastic-label-noise."""

    methods: tuple[MethodName, ...] = tuple(METHODS)
    """lines of the table"""
    strengths: tuple[Share, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    """shares of flipped labels"""
    weight: NotNegative = 1e-2
    """of the regularizer; best in Figure B.1"""
    margin: Finite = math.log(16)
    """b of equation 6; log 16 is best in Figure B.1"""
    layers: Literal[1, 2] = 2
    """how many hidden layers are stochastic"""

    presets = {
        "tiny": {"strengths": (0.0, 0.4), "epochs": 2, "seeds": 1},
        "quick": {},
        "paper": {"data": "mnist", "epochs": 10, "seeds": 5},
    }
    extends = ("methods", "strengths")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first, then strengths and methods."""
        for seed, strength, method in itertools.product(range(self.seeds), self.strengths, self.methods):
            yield {"method": method, "strength": strength, "seed": seed}

    def run(self, context: Context, *, method: str, strength: float, seed: int) -> dict[str, Any]:
        """One training."""
        point = Point(self.weight, self.margin, self.layers)
        return label_training.trained(context, point, method, strength, seed)["result"]

    def report(self, rows: list[Row]) -> Report:
        """Test accuracy by method and strength, then what the strongest noise up to 0.4 did."""
        closer = max((p for p in self.strengths if p <= 0.4), default=self.strengths[0])
        by_strength = {
            f"{100 * p:g} %": lambda mine, p=p: percent(late(select(mine, strength=p))) for p in self.strengths
        }
        near = select(rows, strength=closer)
        baseline = late(select(near, method=BASELINE))

        def deviation(mine: list[Row], which: int) -> str:
            known = [row["log_deviation"][which] for row in mine if row["log_deviation"] is not None]
            return plus_minus(known, 2) if known else "-"

        def error(mine: list[Row]) -> str:
            return "-" if mine[0]["corruption_error"] is None else plus_minus([r["corruption_error"] for r in mine], 3)

        def above_baseline(mine: list[Row]) -> str:
            return "-" if not baseline or mine[0]["method"] == BASELINE else tables.paired(late(mine), baseline)

        details = {
            "method": "method",
            "weights": lambda mine: f"{mine[0]['weights']:,}",
            "above the baseline, 95 % interval": above_baseline,
            "test, last epoch": lambda mine: percent([row["test_accuracy"][-1] for row in mine]),
            "test, best epoch": lambda mine: percent([max(row["test_accuracy"]) for row in mine]),
            "flipped labels memorized": lambda mine: percent([row["memorized"] for row in mine]),
            "log sigma, right labels": lambda mine: deviation(mine, 0),
            "log sigma, flipped labels": lambda mine: deviation(mine, 1),
            "error of the estimated corruption": error,
            "seconds": lambda mine: plus_minus([row["seconds"] for row in mine], 1),
        }
        text = (
            f"Test accuracy, mean of the last {LATE} epochs, in percent, by share of flipped labels; mean ± standard "
            f"deviation over {self.seeds} seeds ({PAPER}):\n\n"
            f"{tables.table(rows, ['method'], {'method': 'method'} | by_strength)}\n\n"
            f"At {100 * closer:g} %, differences paired by seeds:\n\n{tables.table(near, ['method'], details)}"
        )
        return Report(text, {"accuracy.png": draw(self, rows, closer)})


def late(rows: list[Row]) -> list[float]:
    """Test accuracies, means of the last LATE epochs."""
    return [statistics.fmean(row["test_accuracy"][-LATE:]) for row in rows]


def draw(settings: LabelNoise, rows: list[Row], closer: float) -> Figure:
    """Accuracy against strength, bars one standard deviation, and against epochs at one strength."""
    figure, ((left, right),) = figures.new_figure(
        1, 2, width=11, height=4.6, title=f"{settings.data}, patterned label noise, {settings.seeds} seeds"
    )
    methods = tables.groups(rows, "method")
    for number, ((method,), mine) in enumerate(methods.items()):
        # Moved a little apart, so that bars do not hide each other.
        x = [100 * p + 0.45 * (number - (len(methods) - 1) / 2) for p in settings.strengths]
        ends = [late(select(mine, strength=p)) for p in settings.strengths]
        figures.over_scale(left, x, ends, label=method, **LOOKS[method])
        # No bands: those of seven methods would hide the lines; the left panel has the deviations.
        curves = [row["test_accuracy"] for row in select(mine, strength=closer)]
        figures.over_epochs(right, curves, band=False, markersize=3.5, **LOOKS[method])
    figures.name_axes(left, f"Test accuracy, mean of the last {LATE} epochs", "flipped training labels, %")
    left.set_xticks(100 * np.array(settings.strengths))
    figures.name_axes(right, f"Test accuracy at {100 * closer:g} % flipped labels", "epoch")
    figures.legend_below(figure, left, 4)
    return figure
