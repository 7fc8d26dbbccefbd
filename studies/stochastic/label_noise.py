"""Robustness to patterned label noise of stochastic networks (SE-SNN, section 4.3 and appendices A and B).

Each class is flipped to one other class, drawn anew at each seed. A 784-128-128-10 network with both hidden layers
stochastic and the sample-wise max-entropy regularizer (equation 6) against a baseline of as many weights (a parallel
layer beside each hidden one), bootstrapping, forward correction, and SE-SNN with forward correction. At one seed all
methods see the same labels and batches; accuracies are means of the last five epochs, for they swing from one to the
next, on clean test labels, in the mode "mean". No setting was chosen by the test set.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies import figures, tables
from studies.settings import Finite, NotNegative, Share
from studies.stochastic import label_training
from studies.stochastic.label_training import LabelStudy, Point
from studies.stochastic.methods import BASELINE, LOOKS, METHODS, SE_SNN, MethodName
from studies.study import Context, Report, Row
from studies.tables import means, percent, select, shares, values

#: Epochs at the end whose mean is taken: accuracies swing from one to the next.
LATE = 5
PAPER = "the paper, on all of MNIST at 40 %: baseline 81.04, SE-SNN 95.17"
PAPER_SWEEPS = "the paper, on all of MNIST: best at weight 0.01; larger margins and more stochastic layers are better"
_LOG = {0.0: "0", math.log(4): "log 4", math.log(16): "log 16"}


def late(row: Row) -> float:
    """Test accuracy, mean of the last LATE epochs."""
    return statistics.fmean(row["test_accuracy"][-LATE:])


def kept(row: Row) -> float:
    """Test accuracy after the epoch of the lowest loss on the images held out: no right label chose it."""
    losses = row["validation_loss"]
    return row["test_accuracy"][losses.index(min(losses))]


@dataclass(frozen=True, kw_only=True)
class LabelNoise(LabelStudy):
    """By share of flipped labels, from 0 to 0.5 (Figure 3a).

    Written to --out: table.md, accuracy.png and results.json.
    """

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
        # Hendrycks et al., 2018, whom the paper follows.
        "paper": {"data": "mnist", "inputs": "unit", "batch_size": 32, "epochs": 10, "seeds": 5},
    }
    axes = {"strength": "strengths", "method": "methods"}
    extends = ("methods", "strengths")

    def run(self, context: Context, *, method: str, strength: float, seed: int) -> dict[str, Any]:
        """One training."""
        point = Point(self.weight, self.margin, self.layers)
        return label_training.trained(context, point, method, strength, seed)["result"]

    def report(self, rows: list[Row]) -> Report:
        """Test accuracy by method and strength, then what the strongest noise up to 0.4 did."""
        closer = max((p for p in self.strengths if p <= 0.4), default=self.strengths[0])
        by_strength = {
            f"{100 * p:g} %": lambda mine, p=p: percent(values(select(mine, strength=p), late)) for p in self.strengths
        }
        near = select(rows, strength=closer)

        def deviation(which: int) -> tables.Column:
            def cell(mine: list[Row]) -> str:
                known = [row["log_deviation"][which] for row in mine if row["log_deviation"] is not None]
                return tables.plus_minus(known, 2) if known else "-"

            return cell

        chosen = {
            "test, epoch of lowest validation loss": shares(kept),
            "that above the baseline's": tables.above(kept, select(near, method=BASELINE)),
        }
        details = {
            "method": "method",
            "weights": tables.first("{weights:,}"),
            "above the baseline, 95 % interval": tables.above(late, select(near, method=BASELINE)),
            "test, last epoch": shares(lambda row: row["test_accuracy"][-1]),
            "test, best epoch": shares(lambda row: max(row["test_accuracy"])),
            **(chosen if self.validation else {}),
            "flipped labels memorized": shares("memorized"),
            "log sigma, right labels": deviation(0),
            "log sigma, flipped labels": deviation(1),
            "error of the estimated corruption": means("corruption_error", 3),
            "seconds": means("seconds", 1),
        }
        text = (
            f"Test accuracy, mean of the last {LATE} epochs, in percent, by share of flipped labels; mean ± standard "
            f"deviation over {self.seeds} seeds ({PAPER}):\n\n"
            f"{tables.table(rows, ['method'], {'method': 'method'} | by_strength)}\n\n"
            f"At {100 * closer:g} %, differences paired by seeds:\n\n{tables.table(near, ['method'], details)}"
        )
        return Report(text, {"accuracy.png": draw(self, rows, closer)})


def draw(settings: LabelNoise, rows: list[Row], closer: float) -> Figure:
    """Accuracy against strength, bars one standard deviation, and against epochs at one strength."""
    figure, ((left, right),) = figures.new_figure(
        1, 2, width=11, height=4.6, title=f"{settings.data}, patterned label noise, {settings.seeds} seeds"
    )
    methods = tables.groups(rows, "method")
    for number, ((method,), mine) in enumerate(methods.items()):
        # Moved a little apart, so that bars do not hide each other.
        x = [100 * p + 0.45 * (number - (len(methods) - 1) / 2) for p in settings.strengths]
        ends = [values(select(mine, strength=p), late) for p in settings.strengths]
        figures.over_scale(left, x, ends, label=method, **LOOKS[method])
        # No bands: those of seven methods would hide the lines; the left panel has the deviations.
        curves = [row["test_accuracy"] for row in select(mine, strength=closer)]
        figures.over_epochs(right, curves, band=False, markersize=3.5, **LOOKS[method])
    figures.name_axes(left, f"Test accuracy, mean of the last {LATE} epochs", "flipped training labels, %")
    left.set_xticks(100 * np.array(settings.strengths))
    figures.name_axes(right, f"Test accuracy at {100 * closer:g} % flipped labels", "epoch")
    figures.legend_below(figure, left, 4)
    return figure


@dataclass(frozen=True, kw_only=True)
class LabelSweeps(LabelStudy):
    """On what that depends (appendix B), with 40 % of the labels wrong unless said otherwise.

    The regularizer's weight and margin, one at a time (Figure B.1); none, one or both of the hidden layers stochastic,
    the penultimate one first, none being the baseline of as many weights (Figure B.3); and every method's training loss
    by epochs, with all that a method adds to it (Figure B.4).

    Written to --out: table.md, sweeps.png and results.json.
    """

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
        "paper": {
            "data": "mnist",
            "inputs": "unit",
            "batch_size": 32,
            "weights": (0.001, 0.01, 0.1),
            "epochs": 10,
            "seeds": 5,
        },
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
            f"over {self.seeds} seeds ({PAPER_SWEEPS}). memorized: flipped labels predicted as flipped."
        ]
        measured = {
            f"last {LATE} epochs": shares(late),
            "best epoch": shares(lambda row: max(row["test_accuracy"])),
            "memorized": shares("memorized"),
        }
        for name, swept in panels(self, rows).items():
            lines = [[value, *(cell(mine) for cell in measured.values())] for value, mine in swept.items()]
            parts.append(tables.markdown([name, *measured], lines))
        shown = [epoch for epoch in (1, 2, 5, 10, 20, 50) if epoch < self.epochs] + [self.epochs]
        columns = {"training loss after epoch": "method"} | {
            f"{epoch}": means(lambda row, at=epoch - 1: row["train_loss"][at], 3) for epoch in shown
        }
        usual = select(rows, **self.usual._asdict())
        parts.append(tables.table(usual, ["method"], columns))
        return Report("\n\n".join(parts), {"sweeps.png": draw_sweeps(self, rows)})


def panels(settings: LabelSweeps, rows: list[Row]) -> dict[str, dict[str, list[Row]]]:
    """What is swept -> its value in words -> the rows of all seeds."""

    def at(method: str = SE_SNN, **other: Any) -> list[Row]:
        return select(rows, method=method, **(settings.usual._asdict() | other))

    return {
        "weight": {f"{weight:g}": at(weight=weight) for weight in sorted(settings.weights)},
        "margin": {_LOG.get(b, f"{b:.3g}"): at(margin=b) for b in sorted(settings.margins)},
        "stochastic layers": {"0 (baseline)": at(BASELINE), "1": at(layers=1), "2": at()},
    }


def draw_sweeps(settings: LabelSweeps, rows: list[Row]) -> Figure:
    """Test accuracy by weight, margin and number of layers, and every method's training loss by epochs."""
    title = f"{settings.data}, {100 * settings.strength:g} % of the labels flipped, {settings.seeds} seeds"
    figure, grid = figures.new_figure(2, 2, width=11, height=7.6, title=title)
    for panel, (name, swept) in zip(grid.flat, panels(settings, rows).items()):
        ends = [values(mine, late) for mine in swept.values()]
        figures.over_scale(panel, range(len(ends)), ends, **LOOKS[SE_SNN])
        for place, of in enumerate(ends):
            panel.plot([place] * len(of), [100 * end for end in of], ".", color=LOOKS[SE_SNN]["color"], alpha=0.4)
        baseline = values(select(rows, method=BASELINE), late)
        figures.level(panel, baseline, color=LOOKS[BASELINE]["color"], linewidth=1.1, label=BASELINE)
        panel.set_xticks(range(len(ends)), list(swept))
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
