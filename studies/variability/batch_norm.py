"""Running statistics of batch normalization under weight noise: as training leaves them, or computed anew.

Training passes run at perturbed weights, so batch normalization collects the mean and variance of perturbed
activations, while evaluation is on clean weights. Here networks with batch normalization are trained on right labels
by NVRM-SGD at several b (0 is SGD) and evaluated on clean weights with both: the running statistics of training, and
those of one pass over the training images at clean weights (torch.optim.swa_utils.update_bn).

Written to --out: table.md, gain.png and results.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from matplotlib.figure import Figure
from torch import nn
from torch.optim.swa_utils import update_bn

from studies import figures, fit, tables
from studies.optimizers import NVRM_SGD
from studies.settings import SOME, Count, NotNegative
from studies.study import Context, Report, Row
from studies.variability import looks, training
from studies.variability.training import Problem, TrainingSettings, TrainingStudy, end


@dataclass(frozen=True, kw_only=True)
class BatchNorm(TrainingStudy):
    """The settings of batch-norm."""

    networks: Annotated[tuple[Literal["vgg16", "resnet34", "mobilenetv2"], ...], SOME] = ("vgg16", "resnet34")
    """networks with batch normalization, one or more"""
    width: Count | None = None
    """channels of the first layer (None: vgg16 8, resnet34 4, mobilenetv2 8)"""
    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.0, 0.005, 0.01, 0.02)
    """b, one or more; 0 is SGD"""

    presets = {
        "tiny": training.tiny(networks=("vgg16",), width=1, variability=(0.02,)),
        "quick": {"epochs": 6, "seeds": 2, "weight_decay": 1e-4, "variability": (0.0, 0.01, 0.02)},
        "long": {"epochs": 12, "seeds": 5, "weight_decay": 1e-4},
        "paper": training.paper(variability=(0.0, 0.01, 0.02)),
    }
    extends = ("networks", "variability")

    axes = {"network": "networks", "variability": "variability"}

    def run(self, context: Context, *, network: str, variability: float, seed: int) -> dict[str, Any]:
        """One training; ``measured`` has the accuracy with statistics computed anew."""
        problem = training.corrupt(context.prepared, "asymmetric", 0.0, seed)
        return training.train(
            problem, self.small(network, variability=variability), NVRM_SGD, seed, every_epoch=False,
            advance=context.advance, measure=recalibrated,
        )  # fmt: skip

    def report(self, rows: list[Row]) -> Report:
        """The table and the figure."""
        columns: dict[str, Any] = {
            "network": "network",
            "b": tables.first("{variability:g}"),
            **{label: tables.shares(value) for label, value in STATISTICS.items()},
            "difference, 95 % interval": lambda runs: tables.paired(
                *(tables.values(runs, value) for value in reversed(STATISTICS.values()))
            ),
        }
        text = (
            f"{self.data}, right labels, {self.epochs} epochs. Test accuracy in percent on clean weights, mean ± "
            f"standard deviation over seeds, their number: {self.seeds}:\n\n"
            f"{tables.table(rows, ('network', 'variability'), columns)}"
        )
        return Report(text, {"gain.png": draw(self, rows)})

    def summary(self, row: Row) -> str:
        return f"{super().summary(row)}, anew {row['measured']['recalibrated']:.1%}"


def recalibrated(network: nn.Module, problem: Problem, settings: TrainingSettings, seed: int) -> dict[str, Any]:
    """Test accuracy after the running statistics are computed anew from the training images."""
    update_bn(problem.train_images.split(settings.batch_size), network)
    return {"recalibrated": fit.accuracy(network, problem.test_images, problem.test_labels)}


#: Test accuracies by the statistics that they are taken with.
STATISTICS = {
    "statistics of training": end("test_accuracy"),
    "computed anew": lambda row: row["measured"]["recalibrated"],
}


def draw(settings: BatchNorm, rows: list[Row]) -> Figure:
    """A panel a network: test accuracy against b with both statistics."""
    names = list(tables.groups(rows, "network"))
    figure, panels = figures.new_figure(
        1, len(names), width=5.2 * len(names), height=4.2,
        title=f"Clean weights, {looks.title(settings)}; mean, standard deviation",
    )  # fmt: skip
    for panel, (name,) in zip(panels[0], names):
        places = tables.groups(tables.select(rows, network=name), "variability")
        for (label, value), color in zip(STATISTICS.items(), ("SGD", NVRM_SGD)):
            look = {"color": looks.COLORS[color], "label": label, "marker": "o", "capsize": 3}
            accuracies = [tables.values(runs, value) for runs in places.values()]
            figures.over_scale(panel, [b for (b,) in places], accuracies, **look)
        figures.name_axes(panel, name, "b", "test accuracy")
        panel.set_xticks([b for (b,) in places], [f"{b:g}" for (b,) in places])
    figures.legend_below(figure, panels[0, 0])
    return figure
