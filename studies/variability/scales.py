"""What training on wrong labels leaves at its end against a scale of noise: three studies of the NVRM paper.

On 40 % asymmetric wrong labels, at the paper's weight decay and at a hundred times it.

Written to --out: table.md, scales.png and results.json.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from matplotlib.figure import Figure

from nvrm_fast.contract.distributions import DISTRIBUTIONS
from studies import figures, tables
from studies.optimizers import NVRM_SGD, PERTURBED_SGD, SGD
from studies.settings import SOME, NotNegative, Positive
from studies.study import Report, Row
from studies.variability import looks, training
from studies.variability.training import LAST, FlippedStudy, accuracy, last


@dataclass(frozen=True, kw_only=True)
class ScaleStudy(FlippedStudy):
    """What the three studies share.

    by: names in a cell, besides the optimizer and the weight decay, that tell lines of the table apart. scale: that of
    them which is across the figure's panels; across: what its axis is called.
    """

    weight_decay: Annotated[tuple[NotNegative, ...], SOME] = (1e-4, 1e-2)
    """L2 penalties, one or more: the paper's, and what label-noise-sweep chose"""

    axes = {"weight_decay": "weight_decay", "way": "ways"}
    by = ("variability",)
    scale, across = "variability", "b"

    def line_of(self, row: Row) -> str:
        """The line of the figure that a row belongs to; that of SGD alone has no scale."""
        return row["optimizer"]

    def report(self, rows: list[Row]) -> Report:
        """The table, the differences from SGD and the figure."""
        same = ["weight_decay", *([self.scale] if self.scale == "lr" else [])]
        text = training.report_text(self, rows, ["weight_decay", *self.by], same)
        return Report(text, {"scales.png": self.draw(rows)})

    def draw(self, rows: list[Row]) -> Figure:
        """Test error, the mean of the last epochs (the paper's Figures 6 and 7; 13 shows accuracies) and the share of
        wrong labels that were memorized, against the scale; a row of panels for each weight decay."""
        title = looks.title(self, self.network, f"{100 * self.noise_rate:g} % wrong labels")
        decays = tables.groups(rows, "weight_decay")
        figure, panels = figures.new_figure(
            len(decays), 2, width=10.4, height=0.6 + 3.8 * len(decays), title=title, sharex=True, sharey="col"
        )
        look = dict(zip(dict.fromkeys(map(self.line_of, rows)), zip(figures.COLORS, figures.MARKERS)))
        measures = (
            (f"Test error, last {LAST} epochs", lambda runs: [1 - accuracy(run) for run in runs]),
            ("Wrong labels memorized", lambda runs: [value or 0.0 for value in last(runs, "memorized")]),
        )
        scales = {row[self.scale] for row in rows} - ({0.0} if self.scale == "variability" else set())
        for line_of_panels, ((decay,), mine) in zip(panels, decays.items()):
            for panel, (heading, values) in zip(line_of_panels, measures):
                for line, (color, marker) in look.items():
                    runs = [row for row in mine if self.line_of(row) == line]
                    points = {place: values(own) for (place,), own in tables.groups(runs, self.scale).items()}
                    if [*points] == [0.0]:
                        figures.level(panel, points[0.0], color=color, label=line)
                    else:
                        figures.over_scale(panel, [*points], [*points.values()], color=color, marker=marker, label=line)
                figures.name_axes(panel, f"{heading}, weight decay {decay:g}", self.across)
                figures.tick_scales(panel, scales)
        figures.legend_below(figure, panels[0, 0])
        return figure


@dataclass(frozen=True, kw_only=True)
class Denoising(ScaleStudy):
    """Does taking the noise off help? NVRM-SGD against PSGD, which leaves its noise in the weights, by b.

    Section 4 (5), Figure 6. PSGD adds noise of scale b to the gradient, so its weights move by lr * b a step.
    """

    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
    """NVRM-SGD's b, one or more"""
    psgd_variability: Annotated[tuple[NotNegative, ...], SOME] = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5)
    """PSGD's b, one or more"""

    presets = {
        "tiny": training.tiny(variability=(0.02,), psgd_variability=(0.1,)),
        "quick": training.quick(variability=(0.02, 0.05), psgd_variability=(0.1, 0.5)),
        "long": training.long(variability=(0.02, 0.03, 0.05), psgd_variability=(0.1, 0.2, 0.5)),
        "paper": training.paper(weight_decay=(1e-4,)),
    }
    extends = ("weight_decay", "variability", "psgd_variability")

    @property
    def ways(self) -> list[dict[str, Any]]:
        scales = ((SGD, (0.0,)), (NVRM_SGD, self.variability), (PERTURBED_SGD, self.psgd_variability))
        return [{"optimizer": optimizer, "variability": b} for optimizer, values in scales for b in values]


@dataclass(frozen=True, kw_only=True)
class NoiseType(ScaleStudy):
    """Which noise? NVRM-SGD with Gaussian, uniform and Laplace noise on the weights, by b.

    Section 4 (6), Figure 7. b is the scale of each; their standard deviations are b, b / sqrt(3) and b * sqrt(2).
    """

    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
    """b, one or more"""
    noise: Annotated[tuple[Literal[tuple(DISTRIBUTIONS)], ...], SOME] = ("gaussian", "uniform", "laplace")
    """distributions of the weight noise, one or more"""

    presets = {
        "tiny": training.tiny(variability=(0.02,)),
        "quick": training.quick(weight_decay=(1e-4,), variability=(0.02, 0.05)),
        "long": training.long(variability=(0.02, 0.03, 0.05, 0.1)),
        "paper": training.paper(weight_decay=(1e-4,)),
    }
    extends = ("weight_decay", "variability", "noise")
    by = ("noise", "variability")

    @property
    def ways(self) -> list[dict[str, Any]]:
        ways = [(SGD, None, 0.0), *itertools.product([NVRM_SGD], self.noise, self.variability)]
        return [{"optimizer": optimizer, "noise": noise, "variability": b} for optimizer, noise, b in ways]

    def line_of(self, row: Row) -> str:
        return SGD if row["noise"] is None else f"NVRM {row['noise']}"


@dataclass(frozen=True, kw_only=True)
class GradientNoise(ScaleStudy):
    """Is it only gradient noise? SGD's own noise, which grows with the learning rate, against NVRM-SGD.

    Appendix E, Figure 13, by learning rate; the preset long has several b.
    """

    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.05,)
    """NVRM-SGD's b, one or more"""
    lr: Annotated[tuple[Positive, ...], SOME] = (0.1, 0.3, 1.0, 3.0)
    """learning rates at the start, one or more"""

    presets = {
        "tiny": training.tiny(lr=(0.03,)),
        "quick": training.quick(weight_decay=(1e-4,), lr=(0.03, 0.1, 0.3)),
        "long": training.long(lr=(0.01, 0.03, 0.1, 0.3), variability=(0.02, 0.03, 0.05)),
        # Figure 13: the learning rate divided by 10 after every 60 epochs.
        "paper": training.paper(weight_decay=(1e-4,), lr=(0.1, 0.3, 1.0, 3.0), lr_drops=(60, 120, 180, 240)),
    }
    extends = ("weight_decay", "variability", "lr")
    by = ("lr", "variability")
    scale, across = "lr", "learning rate at the start"

    @property
    def ways(self) -> list[dict[str, Any]]:
        ways = [(SGD, 0.0), *((NVRM_SGD, b) for b in self.variability)]
        return [{"optimizer": name, "variability": b, "lr": lr} for (name, b), lr in itertools.product(ways, self.lr)]

    def line_of(self, row: Row) -> str:
        return training.name(row)
