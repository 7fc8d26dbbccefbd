"""NVRM-SGD against what else stops a network from memorizing wrong labels, each at an equal budget of tuning.

Every method has one strength, a grid of four values of it, and everything else in common: network, batches, learning
rate, momentum and, but for weight decay itself, the paper's L2 penalty. The rule, fixed before the first run:

1. A quarter of the training images is set aside; its labels are flipped like those of the rest, so that no clean label
   is used. The value with the best mean accuracy on them (last epochs, over the search's seeds, which are not those
   of 2) is the method's.
2. With it the network is trained on all training images, and judged by the test set, on clean weights.

The same is done at a rate of 0, where nothing is flipped: what does each method cost on clean labels? Accuracies are
means of the last three epochs. A step's passes (forward and backward through the network, of one batch) and state
stand beside them: SAM's step has two.

Written to --out: table.md, comparison.png and results.json.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from matplotlib.figure import Figure

from studies import figures, optimizers, tables
from studies.data import ImageData
from studies.optimizers import IVON, M_RWP, MSAM, NVRM_SGD, SAM, SGD
from studies.settings import SOME, Count, Share
from studies.study import Context, Report, Row
from studies.variability import looks, training
from studies.variability.training import FlippedStudy, accuracy, end


class Method(NamedTuple):
    """label: in tables. optimizer: of ``optimizers.OPTIMIZERS``. strength: the setting that the grid is of. fixed:
    others that the method needs. passes: through the network, a step."""

    label: str
    optimizer: str
    strength: str
    grid: tuple[float, ...]
    fixed: dict[str, Any] = {}
    passes: int = 1


_RMS = {"relative": "rms", "noise_on_biases": False}
METHODS = {
    "sgd": Method("SGD, learning rate", SGD, "lr", (0.01, 0.03, 0.1, 0.3)),
    "decay": Method("weight decay", SGD, "weight_decay", (1e-3, 1e-2, 3e-2, 0.1)),
    "dropout": Method("dropout", SGD, "dropout", (0.2, 0.4, 0.6, 0.8)),
    "smoothing": Method("label smoothing", SGD, "label_smoothing", (0.1, 0.2, 0.4, 0.6)),
    "ema": Method("EMA of weights", SGD, "ema_decay", (0.9, 0.99, 0.999, 0.9999)),
    "nvrm": Method("NVRM-SGD", NVRM_SGD, "variability", (0.02, 0.03, 0.05, 0.07)),
    "nvrm-relative": Method("NVRM-SGD, relative", NVRM_SGD, "variability", (0.35, 0.5, 0.7, 1.0), _RMS),
    "m-rwp": Method("m-RWP", M_RWP, "variability", (0.03, 0.05, 0.07, 0.1)),
    "m-rwp-relative": Method("m-RWP, relative", M_RWP, "variability", (0.5, 0.7, 1.0, 1.4), _RMS),
    "msam": Method("momentum-SAM", MSAM, "msam_rho", (0.1, 0.3, 1.0, 3.0)),
    "ivon": Method("IVON", IVON, "ivon_hessian", (0.05, 0.1, 0.5, 1.0)),
    "sam": Method("SAM", SAM, "sam_rho", (0.05, 0.1, 0.2, 0.4), passes=2),
}
#: With which the others are compared at the same seeds.
BASES = ("decay", "nvrm", "nvrm-relative", "sam")


@dataclass(frozen=True, kw_only=True)
class Comparison(FlippedStudy):
    """The settings of comparison."""

    methods: Annotated[tuple[Literal[tuple(METHODS)], ...], SOME] = tuple(METHODS)
    """what is compared, one or more; SGD's grid is of learning rates"""
    noise_rate: Annotated[tuple[Share, ...], SOME] = (0.4, 0.0)
    """probabilities that a training label is flipped, one or more; at 0 none is"""
    search_seeds: Count = 2
    """how many seeds each value of a grid is trained with"""

    presets = {
        "tiny": {**training.tiny(), "search_seeds": 1},
        "quick": {
            "methods": ("decay", "nvrm", "sam"), "noise_rate": (0.4,), "epochs": 15, "seeds": 2, "search_seeds": 1
        },
        "long": {"epochs": 36, "seeds": 5},
        "paper": training.paper(),
    }  # fmt: skip
    extends = ("methods", "noise_rate", "search_seeds")

    def prepare(self) -> ImageData | None:
        """The images; refuses methods whose packages are missing."""
        optimizers.require(METHODS[name].optimizer for name in self.methods)
        return super().prepare()

    def cells(self) -> Iterator[dict[str, Any]]:
        """The search: every value of every grid, judged by the validation split."""
        for seed, rate, name in itertools.product(range(self.search_seeds), self.noise_rate, self.methods):
            for value in METHODS[name].grid:
                yield {"judged_by": "validation", "noise_rate": rate, "method": name, "value": value, "seed": seed}

    def later_cells(self, rows: list[Row]) -> Iterator[dict[str, Any]]:
        """What the rule chose, judged by the test set."""
        for seed, ((rate, name), value) in itertools.product(range(self.seeds), choose(rows).items()):
            yield {"judged_by": "test", "noise_rate": rate, "method": name, "value": value, "seed": seed}

    def run(self, context: Context, *, judged_by: str, noise_rate: float, method: str, value: float, seed: int
    ) -> dict[str, Any]:  # fmt: skip
        """One training."""
        how = METHODS[method]
        problem, seed = training.judged(context.prepared, self.noise_kind, noise_rate, seed, judged_by)
        settings = self.small(self.network, **how.fixed, **{how.strength: value})
        return training.train(problem, settings, how.optimizer, seed, advance=context.advance)

    def report(self, rows: list[Row]) -> Report:
        """The table of each rate, the differences from NVRM-SGD and the figure."""
        judged = tables.select(rows, judged_by="test")
        parts = [
            f"{self.data}, {self.network}, {self.epochs} epochs. Each method at the best of four values of its "
            f"strength ({self.search_seeds} seeds a value, a quarter of the corrupted training images held out). "
            f"{training.means_of_last(self)}. Differences are paired by seeds, with 95 % intervals."
        ]
        for (rate,), mine in tables.groups(judged, "noise_rate").items():
            columns: dict[str, Any] = {
                "method": tables.words(lambda row: METHODS[row["method"]].label),
                "strength": tables.words(lambda row: f"{METHODS[row['method']].strength} {row['value']:g}"),
                "test accuracy": tables.shares(accuracy),
                "worst seed": lambda runs: f"{100 * min(map(accuracy, runs)):.1f}",
            }
            for (name,), base in tables.groups(mine, "method").items():
                if name in BASES:
                    columns[f"above {METHODS[name].label}"] = tables.above(accuracy, base, itself="")
            if rate:
                columns["flipped labels memorized"] = tables.shares(end("memorized"))
            columns["passes a step"] = tables.words(lambda row: str(METHODS[row["method"]].passes))
            columns["state, bytes per weight"] = tables.first("{state_bytes_a_parameter:.1f}")
            parts.append(f"{heading(self, rate)}:\n\n{tables.table(mine, ['method'], columns)}")
        parts.append(f"What the search saw, accuracy on the images held out:\n\n{table_of_search(rows)}")
        found = {
            "chosen": [{"rate": rate, "method": name, "value": value} for (rate, name), value in choose(rows).items()]
        }
        return Report("\n\n".join(parts), {"comparison.png": draw(self, judged)}, found)

    def summary(self, row: Row) -> str:
        return f"test {accuracy(row):.1%}"


def choose(rows: list[Row]) -> dict[tuple[float, str], float]:
    """The value with the best score, by rate and method; a tie goes to the earlier one."""
    searched = tables.groups(tables.select(rows, judged_by="validation"), "noise_rate", "method")
    return {
        place: max(tables.groups(mine, "value").items(), key=lambda item: score(item[1]))[0][0]
        for place, mine in searched.items()
    }


def score(runs: list[Row]) -> float:
    """Mean over seeds of the accuracy on the validation split."""
    return statistics.fmean(map(accuracy, runs))


def table_of_search(rows: list[Row]) -> str:
    """A line a method, a column a rate: each value of the grid and its score in percent."""
    searched = tables.select(rows, judged_by="validation")

    def grid_at(rate: float) -> tables.Column:
        def cell(mine: list[Row]) -> str:
            values = tables.groups(tables.select(mine, noise_rate=rate), "value")
            return ", ".join(f"{value:g}: {100 * score(runs):.1f}" for (value,), runs in values.items())

        return cell

    columns: dict[str, str | tables.Column] = {
        "method, its strength": tables.words(
            lambda row: f"{METHODS[row['method']].label}, {METHODS[row['method']].strength}"
        )
    }
    for (rate,) in tables.groups(searched, "noise_rate"):
        columns[f"{100 * rate:g} % wrong labels" if rate else "clean labels"] = grid_at(rate)
    return tables.table(searched, ["method"], columns)


def heading(settings: Comparison, rate: float) -> str:
    """``40 % asymmetric flips``."""
    return f"{100 * rate:g} % {settings.noise_kind} flips" if rate else "Clean labels"


def draw(settings: Comparison, rows: list[Row]) -> Figure:
    """A panel a rate, a row a method: each seed a small dot, their mean a large one."""
    rates = tables.groups(rows, "noise_rate")
    names = settings.methods
    figure, panels = figures.new_figure(
        1, len(rates), width=4.8 * len(rates) + 1.6, height=0.34 * len(names) + 1.9, sharey=True,
        title=f"{looks.title(settings, settings.network)}\neach method at the best of four strengths",
    )  # fmt: skip
    for panel, ((rate,), mine) in zip(panels[0], rates.items()):
        for line, name in enumerate(reversed(names)):
            values = [100 * accuracy(run) for run in tables.select(mine, method=name)]
            color = figures.COLORS[1] if "nvrm" in name or "rwp" in name else figures.INK
            panel.plot(values, [line] * len(values), ".", color=figures.FAINT, markersize=5)
            panel.plot(statistics.fmean(values), line, "o", color=color, markersize=7)
        panel.set_yticks(range(len(names)), [METHODS[name].label for name in reversed(names)])
        panel.grid(axis="x", linewidth=0.5, color=figures.FAINT, alpha=0.4)
        figures.name_axes(panel, heading(settings, rate), "test accuracy, %", "", percent=False)
    return figure
