"""Improved generalization: the gap between training and test accuracy under SGD and NVRM-SGD at several b.

The paper's experiment 2 (section 4, Figures 2 and 9), on right labels: VGG-16 on CIFAR-10, which is the preset paper,
and MobileNetV2 on CIFAR-100: --preset paper --data cifar100 --network mobilenetv2. SAM and IVON stand beside as what a
user would pick instead.

Written to --out: table.md, curves.png and results.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from matplotlib.figure import Figure

from studies import figures, tables
from studies.optimizers import ADAM, IVON, NVRM_SGD, SAM, SGD, OptimizerName
from studies.settings import SOME, NotNegative, Share
from studies.study import Report, Row
from studies.variability import looks, training
from studies.variability.training import TrainingStudy


@dataclass(frozen=True, kw_only=True)
class Generalization(TrainingStudy):
    """The settings of generalization."""

    noise_rate: Share = 0.0
    """probability that a training label is flipped, asymmetrically"""
    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.01, 0.015, 0.02)
    """b, one or more"""
    optimizers: Annotated[tuple[OptimizerName, ...], SOME] = (SGD, NVRM_SGD, ADAM, SAM, IVON)
    """what is compared"""

    presets = {
        "tiny": training.tiny(variability=(0.02,)),
        "quick": training.quick(variability=(0.02, 0.05), weight_decay=1e-4),
        "paper": training.paper(network="vgg16", momentum=0.0),
    }
    axes = {"way": "ways"}
    extends = ("variability", "optimizers")

    def report(self, rows: list[Row]) -> Report:
        """The table, the differences from SGD and the figure."""
        text = training.report_text(self, rows, ["variability"], at_same=())
        return Report(text, {"curves.png": draw(self, rows)})


def draw(settings: Generalization, rows: list[Row]) -> Figure:
    """Left the generalization gap, right the test accuracy, against epochs: the layout of Figures 2 and 9."""
    figure, panels = figures.new_figure(
        1, 2, width=10.4, height=4.4, sharex=True, title=looks.title(settings, settings.network)
    )
    shades = iter(figures.SHADES)
    for (optimizer, _), runs in tables.groups(rows, "optimizer", "variability").items():
        look = {
            "color": next(shades, figures.INK) if optimizer == NVRM_SGD else looks.COLORS[optimizer],
            "label": training.name(runs[0]),
        }
        gaps = [[a - b for a, b in zip(run["train_accuracy"], run["test_accuracy"])] for run in runs]
        figures.over_epochs(panels[0, 0], gaps, **look)
        figures.over_epochs(panels[0, 1], [run["test_accuracy"] for run in runs], **look)
    for panel, heading in zip(panels[0], ("Generalization gap", "Test accuracy")):
        figures.name_axes(panel, heading, "epoch")
        looks.mark_drops(panel, settings.drops, settings.epochs)
    # The first epochs would press the rest together.
    panels[0, 1].set_ylim(bottom=max(0.0, 100 * min(training.last(rows, "test_accuracy")) - 8))
    figures.legend_below(figure, panels[0, 0])
    return figure
