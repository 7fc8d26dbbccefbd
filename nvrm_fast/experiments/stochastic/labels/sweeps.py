"""What SE-SNN's robustness to wrong labels depends on (SE-SNN, appendix B: Figures B.1, B.3 and B.4).

The network, the labels and the training of stochastic-label-noise, with 40 % of the labels wrong unless said otherwise:
the regularizer's weight and margin, one at a time (Figure B.1); none, one or both of the hidden layers stochastic
(Figure B.3, the penultimate one first; none is the baseline of as many weights); and every method's training loss by
epochs (Figure B.4), with all that a method adds to it. Accuracies are of the last epoch, on clean test labels, in the
mode "mean". Nothing is chosen by them.

Written to --out: table.md, sweeps.png, results.json, and runs.jsonl, from which a stopped study goes on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.nn.functional import cross_entropy

from nvrm_fast.experiments import data, report, settings
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Checked, option
from nvrm_fast.experiments.stochastic.labels.study import COLORS, MARKERS
from nvrm_fast.experiments.stochastic.labels.training import (
    BASELINE,
    METHODS,
    SE_SNN,
    Recipe,
    corrupted,
    train,
    train_all,
)

NAME = "stochastic-label-noise-sweeps"
HELP = "weight, margin, number of layers and convergence against label noise (SE-SNN, Figures B.1, B.3, B.4)"
_LOG = {0.0: "0", math.log(4): "log 4", math.log(16): "log 16"}
PAPER = "the paper, on all of MNIST: best at weight 0.01; larger margins and more stochastic layers are better"


@dataclass(frozen=True)
class SweepSettings(Checked):
    """Options of the study."""

    preset: str = option("quick", "named values of all other options", choices=("quick", "paper", "tiny"))
    data: str = option("mnist-5000", "data set", choices=tuple(data.LOADERS))
    data_dir: str | None = option(None, "folder with the data set's official files", metavar="FOLDER")
    strength: float = option(
        0.4,
        "share of flipped labels",
        type=float,
        check=(lambda share: 0 <= share < 1, "from 0 up to, but not including, 1"),
    )
    weights: tuple[float, ...] = option(
        (0.001, 0.01, 0.1, 1.0, 10.0),
        "of the regularizer",
        type=float,
        nargs="+",
        metavar="W",
        check=(lambda weights: all(math.isfinite(w) and w >= 0 for w in weights), "0 or more for each"),
    )
    margins: tuple[float, ...] = option(
        tuple(_LOG),
        "b of equation 6",
        type=float,
        nargs="+",
        metavar="B",
        check=(lambda margins: all(map(math.isfinite, margins)), "finite numbers"),
    )
    weight: float = option(0.01, "of the regularizer where something else is swept", type=float, check=NOT_NEGATIVE)
    margin: float = option(
        math.log(16), "b where something else is swept", type=float, check=(math.isfinite, "a finite number")
    )
    epochs: int = option(20, "passes over the training images", type=int, check=AT_LEAST_ONE)
    batch_size: int = option(128, "images a step", type=int, check=AT_LEAST_ONE)
    lr: float = option(1e-3, "Adam's learning rate", type=float, check=POSITIVE)
    seeds: int = option(3, "how many seeds: flips, initialisation and batches", type=int, check=AT_LEAST_ONE)
    device: str = option("cpu", "torch device, such as cpu or cuda")
    threads: int = option(1, "CPU threads; the last digits of all numbers depend on it", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {"data": "mnist", "weights": (0.001, 0.01, 0.1), "epochs": 10, "seeds": 5},
        "tiny": {"weights": (0.01, 1.0), "margins": (0.0, math.log(16)), "epochs": 2, "seeds": 1},
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=SweepSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Train everything, print the tables and write the results."""
    chosen = settings.from_arguments(arguments, SweepSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    record = Record(folder, NAME, chosen, extending=("weights", "margins"))
    images = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    runs = sweep(images, chosen, record)
    text = describe(runs, chosen)
    content = {
        "study": NAME,
        "settings": asdict(chosen),
        "versions": report.versions(chosen.device),
        "runs": runs,
    }
    report.write_json(folder / "results.json", content)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    title = f"{images.name}, {100 * chosen.strength:g} % of the labels flipped, {chosen.seeds} seeds"
    draw(runs, chosen, folder / "sweeps.png", title=title)
    print(f"\n{text}\n\nwritten: {folder / 'table.md'}, {folder / 'sweeps.png'}, {folder / 'results.json'}")


def sweep(images: ImageData, chosen: SweepSettings, record: Record) -> list[dict[str, Any]]:
    """All runs: dictionaries with the fields of ``label_training.Run`` and weight, margin and layers. Those of every
    method have the settings' weight and margin and two layers; all others are SE-SNN's."""
    usual = (chosen.weight, chosen.margin, 2)
    swept = [(weight, chosen.margin, 2) for weight in chosen.weights]
    swept += [(chosen.weight, margin, 2) for margin in chosen.margins] + [(chosen.weight, chosen.margin, 1)]
    swept = [point for point in dict.fromkeys(swept) if point != usual]
    runs = []
    with progress(chosen.seeds * (len(METHODS) + len(swept)) * chosen.epochs, "epochs") as bar:
        for seed in range(chosen.seeds):

            def methods(seed: int = seed) -> list[dict[str, Any]]:
                made = train_all(images, _recipe(chosen, *usual), chosen.strength, seed, METHODS, bar.update)
                return [asdict(run) for run in made]

            bar.set_description(f"methods, seed {seed}")
            for run in record.run({"what": "methods", "seed": seed}, methods):
                runs.append(run | dict(zip(("weight", "margin", "layers"), usual)))
            for point in swept:
                names = dict(zip(("weight", "margin", "layers"), point))
                bar.set_description(f"weight {point[0]:g}, margin {point[1]:.3g}, layers {point[2]}, seed {seed}")
                place = {"what": "sweep", "seed": seed} | names
                run = record.run(place, partial(_one, images, chosen, point, seed, bar.update))
                runs.append(run | names)
    return runs


def _recipe(chosen: SweepSettings, weight: float, margin: float, layers: int) -> Recipe:
    return Recipe(chosen.epochs, chosen.batch_size, chosen.lr, weight, margin, layers)


def _one(
    images: ImageData, chosen: SweepSettings, point: tuple[float, float, int], seed: int, after_epoch: Any
) -> dict[str, Any]:
    problem, _ = corrupted(images, chosen.strength, seed)
    recipe = _recipe(chosen, *point)
    run, _ = train(problem, recipe, SE_SNN, chosen.strength, seed, cross_entropy, after_epoch)
    return asdict(run)


def at(runs: Sequence[dict[str, Any]], method: str, weight: float, margin: float, layers: int) -> list[dict[str, Any]]:
    """The runs of all seeds at one point."""
    point = (method, weight, margin, layers)
    return [run for run in runs if (run["method"], run["weight"], run["margin"], run["layers"]) == point]


def panels(runs: Sequence[dict[str, Any]], chosen: SweepSettings) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What is swept -> its value in words -> the runs of all seeds."""
    weight, margin = chosen.weight, chosen.margin
    return {
        "weight": {f"{w:g}": at(runs, SE_SNN, w, margin, 2) for w in sorted(chosen.weights)},
        "margin": {_LOG.get(b, f"{b:.3g}"): at(runs, SE_SNN, weight, b, 2) for b in sorted(chosen.margins)},
        "stochastic layers": {
            "0 (baseline)": at(runs, BASELINE, weight, margin, 2),
            "1": at(runs, SE_SNN, weight, margin, 1),
            "2": at(runs, SE_SNN, weight, margin, 2),
        },
    }


def describe(runs: Sequence[dict[str, Any]], chosen: SweepSettings) -> str:
    """A table for each panel, as Markdown."""
    parts = [
        f"{100 * chosen.strength:g} % of the labels flipped. Test accuracy in percent, mean ± standard deviation over "
        f"{chosen.seeds} seeds ({PAPER}). memorized: flipped labels predicted as flipped."
    ]
    for name, values in panels(runs, chosen).items():
        rows = [
            [
                words,
                report.percent([run["test_accuracy"][-1] for run in mine]),
                report.percent([max(run["test_accuracy"]) for run in mine]),
                report.percent([run["memorized"] for run in mine]),
            ]
            for words, mine in values.items()
        ]
        parts.append(report.markdown_table([name, "last epoch", "best epoch", "memorized"], rows))
    shown = [epoch for epoch in (1, 2, 5, 10, 20, 50) if epoch < chosen.epochs] + [chosen.epochs]
    rows = []
    for method in METHODS:
        losses = [run["train_loss"] for run in at(runs, method, chosen.weight, chosen.margin, 2)]
        rows.append([method, *(report.plus_minus([of[epoch - 1] for of in losses], 3) for epoch in shown)])
    header = ["training loss after epoch", *map(str, shown)]
    return "\n\n".join([*parts, report.markdown_table(header, rows)])


def draw(runs: Sequence[dict[str, Any]], chosen: SweepSettings, path: Path, *, title: str) -> None:
    """Test accuracy by weight, margin and number of layers, and every method's training loss by epochs."""
    figure = Figure(figsize=(11, 7.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2)
    baseline = [run["test_accuracy"][-1] for run in at(runs, BASELINE, chosen.weight, chosen.margin, 2)]
    swept = panels(runs, chosen)
    for panel, (name, values) in zip(grid.flat, swept.items()):
        ends = [[100 * run["test_accuracy"][-1] for run in mine] for mine in values.values()]
        middle = [report.mean_and_deviation(of) for of in ends]
        panel.errorbar(
            range(len(ends)), [mean for mean, _ in middle], [deviation for _, deviation in middle], color="#1f5fa8",
            marker="o", capsize=2.5, linewidth=1.6,
        )  # fmt: skip
        for place, of in enumerate(ends):
            panel.plot([place] * len(of), of, ".", color="#1f5fa8", alpha=0.4)
        panel.axhline(100 * float(np.mean(baseline)), color="#555555", linestyle="--", linewidth=1.1, label=BASELINE)
        panel.set_xticks(range(len(ends)), list(values))
        panel.set_xlim(-0.4, len(ends) - 0.6)
        panel.set_xlabel("margin b" if name == "margin" else name)
        panel.set_title(f"Test accuracy after the last epoch, by {name}", fontsize=10.5, loc="left")
        panel.yaxis.set_major_formatter("{x:.0f} %")
        panel.legend(frameon=False, fontsize=9)
    # One scale for the three.
    limits = [panel.get_ylim() for panel in grid.flat[:3]]
    for panel in grid.flat[:3]:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    curves = grid.flat[3]
    for method, color, marker in zip(METHODS, COLORS, MARKERS):
        losses = np.array([run["train_loss"] for run in at(runs, method, chosen.weight, chosen.margin, 2)])
        epochs = np.arange(1, losses.shape[1] + 1)
        curves.plot(epochs, losses.mean(0), color=color, marker=marker, markersize=3.5, linewidth=1.6, label=method)
    curves.set_xlabel("epoch")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.set_title("Training loss, with all that a method adds to it", fontsize=10.5, loc="left")
    curves.legend(frameon=False, fontsize=8.5)
    for panel in grid.flat:
        panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path)
