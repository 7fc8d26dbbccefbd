"""What SE-SNN's robustness to wrong labels depends on (SE-SNN, appendix B: Figures B.1, B.3 and B.4).

The network, the labels and the training of stochastic-label-noise, with 40 % of the labels wrong unless said otherwise:
the regularizer's weight and margin, one at a time (Figure B.1); none, one or both of the hidden layers stochastic
(Figure B.3, the penultimate one first; none is the baseline of as many weights); and every method's training loss by
epochs (Figure B.4), with all that a method adds to it. Accuracies are means of the last five epochs, on clean test
labels, in the mode "mean". Nothing is chosen by them.

Written to --out: table.md, sweeps.png and results.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies import figures, tables
from studies.settings import Finite, NotNegative, Share
from studies.stochastic import label_training
from studies.stochastic.label_noise import LATE, late
from studies.stochastic.label_training import LabelStudy, Point
from studies.stochastic.methods import BASELINE, LOOKS, METHODS, SE_SNN
from studies.study import Context, Report, Row
from studies.tables import percent, plus_minus, select

_LOG = {0.0: "0", math.log(4): "log 4", math.log(16): "log 16"}
PAPER = "the paper, on all of MNIST: best at weight 0.01; larger margins and more stochastic layers are better"


@dataclass(frozen=True, kw_only=True)
class LabelSweeps(LabelStudy):
    """The settings of stochastic-label-noise-sweeps."""

    strength: Share = 0.4
    """share of flipped labels"""
    weights: tuple[NotNegative, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """of the regularizer"""
    margins: tuple[Finite, ...] = tuple(_LOG)
    """b of equation 6"""
    weight: NotNegative = 0.01
    """of the regularizer where something else is swept"""
    margin: Finite = math.log(16)
    """b where something else is swept"""

    @property
    def usual(self) -> Point:
        """Where every method is trained."""
        return Point(self.weight, self.margin, 2)

    presets = {
        "tiny": {"weights": (0.01, 1.0), "margins": (0.0, math.log(16)), "epochs": 2, "seeds": 1},
        "quick": {},
        "paper": {"data": "mnist", "weights": (0.001, 0.01, 0.1), "epochs": 10, "seeds": 5},
    }
    extends = ("weights", "margins")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first; at each every method at the usual point, then SE-SNN at all others."""
        usual = self.usual
        swept = [usual._replace(weight=weight) for weight in self.weights]
        swept += [usual._replace(margin=margin) for margin in self.margins] + [usual._replace(layers=1)]
        points = [(method, usual) for method in METHODS] + [
            (SE_SNN, point) for point in dict.fromkeys(swept) if point != usual
        ]
        for seed in range(self.seeds):
            for method, point in points:
                yield {"method": method, "strength": self.strength, "seed": seed, **point._asdict()}

    def run(
        self, context: Context, *, method: str, strength: float, seed: int, weight: float, margin: float, layers: int
    ) -> dict[str, Any]:
        """One training."""
        return label_training.trained(context, Point(weight, margin, layers), method, strength, seed)["result"]

    def report(self, rows: list[Row]) -> Report:
        """A table for each panel."""
        parts = [
            f"{100 * self.strength:g} % of the labels flipped. Test accuracy in percent, mean ± standard deviation "
            f"over {self.seeds} seeds ({PAPER}). memorized: flipped labels predicted as flipped."
        ]
        for name, values in panels(self, rows).items():
            lines = [
                [
                    words,
                    percent(late(mine)),
                    percent([max(row["test_accuracy"]) for row in mine]),
                    percent([row["memorized"] for row in mine]),
                ]
                for words, mine in values.items()
            ]
            parts.append(tables.markdown([name, f"last {LATE} epochs", "best epoch", "memorized"], lines))
        shown = [epoch for epoch in (1, 2, 5, 10, 20, 50) if epoch < self.epochs] + [self.epochs]
        columns = {"training loss after epoch": "method"} | {
            f"{epoch}": lambda mine, at=epoch - 1: plus_minus([row["train_loss"][at] for row in mine], 3)
            for epoch in shown
        }
        usual = select(rows, **self.usual._asdict())
        parts.append(tables.table(usual, ["method"], columns))
        return Report("\n\n".join(parts), {"sweeps.png": draw(self, rows)})


def panels(settings: LabelSweeps, rows: list[Row]) -> dict[str, dict[str, list[Row]]]:
    """What is swept -> its value in words -> the rows of all seeds."""

    def at(method: str = SE_SNN, **other: Any) -> list[Row]:
        return select(rows, method=method, **(settings.usual._asdict() | other))

    return {
        "weight": {f"{weight:g}": at(weight=weight) for weight in sorted(settings.weights)},
        "margin": {_LOG.get(b, f"{b:.3g}"): at(margin=b) for b in sorted(settings.margins)},
        "stochastic layers": {"0 (baseline)": at(BASELINE), "1": at(layers=1), "2": at()},
    }


def draw(settings: LabelSweeps, rows: list[Row]) -> Figure:
    """Test accuracy by weight, margin and number of layers, and every method's training loss by epochs."""
    title = f"{settings.data}, {100 * settings.strength:g} % of the labels flipped, {settings.seeds} seeds"
    figure, grid = figures.new_figure(2, 2, width=11, height=7.6, title=title)
    for panel, (name, values) in zip(grid.flat, panels(settings, rows).items()):
        ends = [late(mine) for mine in values.values()]
        figures.over_scale(panel, range(len(ends)), ends, **LOOKS[SE_SNN])
        for place, of in enumerate(ends):
            panel.plot([place] * len(of), [100 * end for end in of], ".", color=LOOKS[SE_SNN]["color"], alpha=0.4)
        baseline = late(select(rows, method=BASELINE))
        figures.level(panel, baseline, color=LOOKS[BASELINE]["color"], linewidth=1.1, label=BASELINE)
        panel.set_xticks(range(len(ends)), list(values))
        panel.set_xlim(-0.4, len(ends) - 0.6)
        heading = f"Test accuracy, last {LATE} epochs, by {name}"
        figures.name_axes(panel, heading, "margin b" if name == "margin" else name)
        panel.legend()
    # One scale for the three.
    limits = [panel.get_ylim() for panel in grid.flat[:3]]
    for panel in grid.flat[:3]:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    curves = grid.flat[3]
    for method, look in LOOKS.items():
        losses = [row["train_loss"] for row in select(rows, method=method, **settings.usual._asdict())]
        curves.plot(range(1, settings.epochs + 1), np.mean(losses, 0), markersize=3.5, label=method, **look)
    figures.name_axes(curves, "Training loss, with all that a method adds to it", "epoch", percent=False)
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.legend(fontsize=8.5)
    return figure
