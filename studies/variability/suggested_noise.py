"""Is the b that ``suggest_variability`` gives, without a sweep, as good as the best of a sweep?

Two tasks, each with NVRM-SGD at every b of a grid, without noise, and at the suggested b. ``label-noise``: a network is
trained from its initial weights on labels of which a share is flipped. ``fine-tuning``: a network that was trained on
the classes of the upper half, right labels, gets a new last layer and is trained on few images of the other classes, a
share of whose labels is flipped. The suggestion is made after a warm-up of one pass over the training images, which
are all that it sees, wrong labels included. Test accuracies are means of the last three epochs, on clean weights.

Written to --out: table.md, suggestion.png and results.json.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy

from nvrm_fast import suggest_variability
from studies import figures, models, tables
from studies.data import ImageData
from studies.models import NetworkName
from studies.optimizers import NVRM_SGD, SGD
from studies.seeds import derive, shuffled
from studies.settings import SOME, Count, Positive
from studies.study import Context, Report, Row
from studies.variability import looks, training
from studies.variability.training import FlippedStudy, Problem, TrainingSettings, accuracy

SUGGESTED = -1.0  # in the place of b


@dataclass(frozen=True, kw_only=True)
class SuggestedNoise(FlippedStudy):
    """The settings of suggested-noise."""

    tasks: Annotated[tuple[Literal["label-noise", "fine-tuning"], ...], SOME] = ("label-noise", "fine-tuning")
    """what is learned, one or both"""
    networks: Annotated[tuple[NetworkName, ...], SOME] = ("cnn", "mlp")
    """networks, one or more, each at its default width (vgg16 8, resnet34 4, mobilenetv2 8)"""
    variability: Annotated[tuple[Positive, ...], SOME] = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
    """b, one or more; no noise is always in the grid"""
    tuning_images: Count = 500
    """training images of the fine-tuning"""
    tuning_lr: Positive = 0.01
    """learning rate of the fine-tuning"""

    presets = {
        "tiny": training.tiny(networks=("mlp",), tuning_images=50, variability=(0.02, 0.05)),
        "quick": {"networks": ("mlp",), "epochs": 24, "seeds": 2, "variability": (0.02, 0.03, 0.05, 0.07)},
        "long": {"epochs": 24, "seeds": 3},
        "paper": training.paper(networks=("resnet34",)),
    }  # fmt: skip
    extends = ("tasks", "networks", "variability")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first, then tasks, networks and b: none, the suggested one, the grid."""
        scales = (0.0, SUGGESTED, *self.variability)
        for seed, task, network in itertools.product(range(self.seeds), self.tasks, self.networks):
            for b in scales:
                yield {"task": task, "network": network, "b": b, "seed": seed}

    def run(self, context: Context, *, task: str, network: str, b: float, seed: int) -> dict[str, Any]:
        """One training; with the suggestion, where it is trained at that."""
        settings = self.small(network, variability=max(b, 0.0))
        if task == "label-noise":
            problem = training.corrupt(context.prepared, self.noise_kind, self.noise_rate, seed)
            start = training.new_network(problem, settings, seed)
        else:
            start = context.once(f"trained-{network}-{seed}", lambda: pretrained(context, settings, seed))
            problem = tuning_problem(context, seed)
            start = fitted(start, problem, settings, seed)
            settings = replace(settings, lr=self.tuning_lr)
        found = {}
        if b == SUGGESTED:
            found["suggested"] = suggestion(start, problem, settings, seed)
            settings = replace(settings, variability=found["suggested"])
        name = NVRM_SGD if settings.variability else SGD
        return training.train(problem, settings, name, seed, advance=context.advance, network=start) | found

    def report(self, rows: list[Row]) -> Report:
        """A line a task and network: no noise, the best of the grid, the suggested b, the difference; then the grid."""
        lines = []
        for (task, network), mine in tables.groups(rows, "task", "network").items():
            by = {b: list(map(accuracy, runs)) for (b,), runs in tables.groups(mine, "b").items()}
            best = max(self.variability, key=lambda b: statistics.fmean(by[b]))
            suggested = tables.values(tables.select(mine, b=SUGGESTED), "suggested")
            lines.append([
                task, network, tables.percent(by[0.0]), f"{best:g}", tables.percent(by[best]),
                tables.plus_minus(suggested, 3), tables.percent(by[SUGGESTED]), tables.paired(by[SUGGESTED], by[best]),
            ])  # fmt: skip
        header = ["task", "network", "no noise", "best b", "accuracy there", "suggested b", "accuracy there"]
        header.append("suggested less best, 95 % interval")
        grid = {"task": "task", "network": "network"} | {
            f"b = {b:g}": lambda runs, b=b: tables.percent(tables.values(tables.select(runs, b=b), accuracy))
            for b in self.variability
        }
        text = (
            f"{self.data}, {self.flips}, {self.epochs} epochs. "
            f"{training.means_of_last(self)}. The best b is that of the test images, so it is a little too good:\n\n"
            f"{tables.markdown(header, lines)}\n\nThe grid:\n\n{tables.table(rows, ('task', 'network'), grid)}"
        )
        return Report(text, {"suggestion.png": draw(self, rows)})

    def summary(self, row: Row) -> str:
        return f"test {accuracy(row):.1%}" + (f", b {row['suggested']:.3f}" if "suggested" in row else "")


def suggestion(network: nn.Module, problem: Problem, settings: TrainingSettings, seed: int) -> float:
    """What ``suggest_variability`` says of the training images and their labels."""
    descent = {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
    data = (problem.train_images, problem.train_labels)
    return suggest_variability(
        network.to(problem.train_images.device), cross_entropy, data, batch_size=settings.batch_size,
        warm_up=lambda weights: torch.optim.SGD(weights, **descent), seed=derive(seed, "suggestion"),
    ).variability  # fmt: skip


def pretrained(context: Context, settings: TrainingSettings, seed: int) -> dict[str, Any]:
    """The weights of a network that has learned the upper half of the classes, without noise."""
    problem = training.corrupt(of_classes(context.prepared, upper=True), context.settings.noise_kind, 0.0, seed)
    network = training.new_network(problem, settings, seed)
    training.train(problem, replace(settings, variability=0.0), SGD, seed, every_epoch=False, network=network)
    return network.state_dict()


def fitted(state: dict[str, Any], problem: Problem, settings: TrainingSettings, seed: int) -> nn.Module:
    """A network of these weights whose last layer is new."""
    network = training.new_network(problem, settings, derive(seed, "last layer"))
    last = models.last_linear(network)
    kept = {name: value for name, value in state.items() if not name.startswith(f"{last}.")}
    network.load_state_dict(network.state_dict() | kept)
    return network


def tuning_problem(context: Context, seed: int) -> Problem:
    """Few images of the lower half of the classes, a share of their labels flipped."""
    settings, data = context.settings, of_classes(context.prepared, upper=False)
    chosen = shuffled(data.train_labels, seed, "tuning images")[: settings.tuning_images]
    few = replace(data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen])
    return training.corrupt(few, settings.noise_kind, settings.noise_rate, seed)


def of_classes(data: ImageData, *, upper: bool) -> ImageData:
    """The images of half of the classes, which count from 0 again."""
    half = data.classes // 2
    first, classes = (half, data.classes - half) if upper else (0, half)
    train, test = ((labels >= first) & (labels < first + classes) for labels in (data.train_labels, data.test_labels))
    return ImageData(
        data.name, data.train_images[train], data.train_labels[train] - first, data.test_images[test],
        data.test_labels[test] - first, classes,
    )  # fmt: skip


def draw(settings: SuggestedNoise, rows: list[Row]) -> Figure:
    """A panel a task and network: accuracy against b, without noise as a level, and each suggestion as a dot."""
    places = tables.groups(rows, "task", "network")
    figure, panels = figures.new_figure(
        1, len(places), width=max(6.4, 3.6 * len(places)), height=3.8, sharey=False,
        title=f"{looks.title(settings, settings.flips)}\n"
        "mean and standard deviation over seeds",
    )  # fmt: skip
    for panel, ((task, network), mine) in zip(panels[0], places.items()):
        values = [[accuracy(run) for run in tables.select(mine, b=b)] for b in settings.variability]
        figures.over_scale(panel, settings.variability, values, color=figures.COLORS[1], label="grid", capsize=3)
        figures.level(panel, [accuracy(run) for run in tables.select(mine, b=0.0)], color=figures.INK, label=SGD)
        suggested = tables.select(mine, b=SUGGESTED)
        panel.plot(
            [run["suggested"] for run in suggested], [100 * accuracy(run) for run in suggested], "o",
            color=figures.COLORS[2], label="suggested, one a seed", zorder=3,
        )  # fmt: skip
        panel.set_xscale("log")
        figures.name_axes(panel, f"{task}, {network}", "b", "test accuracy" if panel is panels[0, 0] else "")
        figures.tick_scales(panel, settings.variability)
    figures.legend_below(figure, panels[0, 0])
    return figure
