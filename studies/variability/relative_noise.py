"""Noise relative to the size of the weights, on wrong labels: which measure leaves the widest window for the factor?

NVRM-SGD with an absolute b, as the paper has it, against b = factor times the root mean square of each tensor or row,
or factor times a third of each row's largest weight (a third is about a Gaussian's root mean square there, so that
factors compare). On several networks, at the paper's weight decay. Test accuracies are means of the last three epochs.

Written to --out: table.md, windows.png and results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from matplotlib.figure import Figure

from studies import figures, tables
from studies.models import NetworkName
from studies.optimizers import NVRM_SGD, SGD
from studies.settings import SOME, Positive
from studies.study import Context, Report, Row
from studies.variability import looks, training
from studies.variability.training import FlippedStudy, accuracy, end

#: Measure, what it is of, and by what the factor is divided.
SCALES = {
    "absolute": (None, "tensor", 1),
    "rms of a tensor": ("rms", "tensor", 1),
    "rms of a row": ("rms", "row", 1),
    "third of a row's largest": ("absmax", "row", 3),
}

_GRID = {"variability": (0.02, 0.03, 0.05, 0.07), "factors": (0.35, 0.5, 0.7, 1.0)}


@dataclass(frozen=True, kw_only=True)
class RelativeNoise(FlippedStudy):
    """The settings of relative-noise."""

    networks: Annotated[tuple[NetworkName, ...], SOME] = ("cnn",)
    """networks, one or more, each at its default width (vgg16 8, resnet34 4, mobilenetv2 8)"""
    variability: Annotated[tuple[Positive, ...], SOME] = (0.03, 0.05)
    """absolute b, one or more"""
    factors: Annotated[tuple[Positive, ...], SOME] = (0.5, 0.7)
    """factors of the relative noise, one or more"""
    noise_on_biases: tuple[bool, ...] = (False,)
    """whether parameters of one dimension carry noise, one or both"""

    presets = {
        "tiny": {**training.tiny(networks=("mlp",)), "noise_on_biases": (False, True)},
        "quick": {"epochs": 24, "seeds": 3},
        "long": {
            "epochs": 36, "seeds": 5, "networks": ("cnn", "mlp", "vgg16"), "noise_on_biases": (False, True), **_GRID
        },
        "paper": training.paper(networks=("resnet34", "vgg16", "mobilenetv2"), **_GRID),
    }  # fmt: skip
    extends = ("networks", "variability", "factors", "noise_on_biases")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first, then networks; SGD, then every scale at each of its factors."""
        for seed, network in itertools.product(range(self.seeds), self.networks):
            yield {"network": network, "scale": SGD, "biases": False, "factor": 0.0, "seed": seed}
            for scale, biases in itertools.product(SCALES, self.noise_on_biases):
                for factor in self.factors if SCALES[scale][0] else self.variability:
                    yield {"network": network, "scale": scale, "biases": biases, "factor": factor, "seed": seed}

    def run(
        self, context: Context, *, network: str, scale: str, biases: bool, factor: float, seed: int
    ) -> dict[str, Any]:  # fmt: skip
        """One training."""
        problem = training.corrupt(context.prepared, self.noise_kind, self.noise_rate, seed)
        relative, per, divisor = SCALES.get(scale, SCALES["absolute"])
        noise = {"variability": factor / divisor, "relative": relative, "per": per, "noise_on_biases": biases}
        name = SGD if scale == SGD else NVRM_SGD
        return training.train(problem, self.small(network, **noise), name, seed, advance=context.advance)

    def report(self, rows: list[Row]) -> Report:
        """The table and the figure."""
        columns: dict[str, Any] = {
            "network": "network",
            "scale": "scale",
            "biases": lambda runs: "-" if runs[0]["scale"] == SGD else "with" if runs[0]["biases"] else "without",
            "b or factor": "factor",
            "test accuracy": tables.shares(accuracy),
            "flipped labels memorized": tables.shares(end("memorized")),
        }
        text = (
            f"{self.data}, {self.flips}, {self.epochs} epochs, weight decay {self.weight_decay:g}. "
            f"{training.means_of_last(self)}:\n\n"
            f"{tables.table(rows, ('network', 'scale', 'biases', 'factor'), columns)}"
        )
        return Report(text, {"windows.png": draw(self, rows)})

    def summary(self, row: Row) -> str:
        return f"test {accuracy(row):.1%}"


def draw(settings: RelativeNoise, rows: list[Row]) -> Figure:
    """A column a network; above the absolute scale against b, below the relative ones against the factor, without noise
    on biases where both were run."""
    names = list(tables.groups(rows, "network"))
    title = looks.title(settings, settings.flips)
    figure, panels = figures.new_figure(
        2, len(names), width=max(6.4, 4.4 * len(names)), height=7.2, sharey="col",
        title=f"{title}\nmean and standard deviation over seeds",
    )  # fmt: skip
    shown = [row for row in rows if row["biases"] == min(settings.noise_on_biases)]
    for column, (name,) in enumerate(names):
        mine = tables.select(shown, network=name)
        for kind, scale in enumerate(SCALES):
            panel = panels[int(SCALES[scale][0] is not None), column]
            places = tables.groups(tables.select(mine, scale=scale), "factor")
            values = [[accuracy(run) for run in runs] for runs in places.values()]
            look = {"marker": figures.MARKERS[kind], "color": figures.COLORS[kind], "label": scale, "capsize": 3}
            figures.over_scale(panel, [factor for (factor,) in places], values, **look)
            panel.set_xscale("log")
        for row, (panel, across) in enumerate(zip(panels[:, column], ("b", "factor"))):
            sgd = [accuracy(run) for run in tables.select(rows, network=name, scale=SGD)]
            figures.level(panel, sgd, color=figures.INK, label=SGD)
            figures.name_axes(panel, name if row == 0 else "", across, "test accuracy" if column == 0 else "")
            figures.tick_scales(panel, settings.factors if row else settings.variability)
    handles = [panel.get_legend_handles_labels() for panel in panels[:, 0]]
    lines = dict(zip(handles[0][1] + handles[1][1], handles[0][0] + handles[1][0]))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3)
    return figure
