"""Robustness to patterned label noise of stochastic networks (SE-SNN, section 4.3 and appendices A and B).

Each class is flipped to one other class, drawn anew at each seed, with a probability from 0 to 0.5. A 784-128-128-10
network with both hidden layers stochastic and the sample-wise max-entropy regularizer (equation 6) against a baseline
of as many weights (a parallel layer beside each hidden one), bootstrapping, forward correction, and SE-SNN with forward
correction. At one seed all methods see the same labels and batches; accuracies are of the last epoch, on clean test
labels, in the mode "mean". No setting was chosen by the test set.

Written to --out: table.md, accuracy.png and results.json (settings, versions and all numbers of every epoch).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nvrm_fast.experiments import StudyError, report
from nvrm_fast.experiments.data import LOADERS, load, standardize
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.stochastic.labels.training import METHODS, Recipe, Run, train_all, with_estimators

HELP = "stochastic layers against patterned label noise (SE-SNN, Figure 3a)"
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
#: What a preset says where the command line does not. Full is the paper's scale: its Figure B.4 has 10 epochs.
PRESETS = {
    "quick": {"data": "mnist-5000", "epochs": 20, "seeds": 3},
    "full": {"data": "mnist", "epochs": 10, "seeds": 5},
}
COLORS = ("#555555", "#e69f00", "#b8860b", "#c1440e", "#7fb2d9", "#1f5fa8", "#117733")
MARKERS = "os^DvPX"
PAPER = "the paper, on all of MNIST at 40 %: baseline 81.04, SE-SNN 95.17"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="quick", help="quick: 5,000 images, minutes (default); full: all of MNIST")
    add("--data", choices=tuple(LOADERS), help="data set (default: the preset's)")
    add("--data-dir", metavar="FOLDER", help="folder with the data set's official files")
    add("--methods", nargs="+", default=list(METHODS), choices=tuple(METHODS), metavar="NAME",
        help=f"lines of the table (default: all): {'; '.join(METHODS)}")  # fmt: skip
    add("--strengths", type=float, nargs="+", default=list(STRENGTHS), metavar="P", help="shares of flipped labels")
    add("--epochs", type=int, help="passes over the training images (default: the preset's)")
    add("--seeds", type=int, help="how many seeds (default: the preset's)")
    add("--batch-size", type=int, default=128, help="images a step (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="Adam's learning rate (default: %(default)s)")
    add("--weight", type=float, default=1e-2, help="of the regularizer (default: %(default)s, best in Figure B.1)")
    add("--margin", type=float, default=math.log(16), help="b of equation 6 (default: log 16, the same)")
    add("--layers", type=int, default=2, choices=(1, 2), help="how many hidden layers are stochastic (default: 2)")
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    add("--device", default="cpu", help="torch device (default: %(default)s)")
    add("--out", default="runs/stochastic-label-noise", metavar="FOLDER", help="where results go")


def main(arguments: argparse.Namespace) -> None:
    """Run the study, print the table and write the results."""
    for name, value in PRESETS[arguments.preset].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    check(arguments)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(arguments.threads)
    data = standardize(load(arguments.data, arguments.data_dir), arguments.device)
    recipe = Recipe(
        arguments.epochs, arguments.batch_size, arguments.lr, arguments.weight, arguments.margin, arguments.layers
    )
    print(
        f"{data.name}: {len(data.train_labels)} training and {len(data.test_labels)} test images; strengths "
        f"{', '.join(f'{p:g}' for p in arguments.strengths)}; epochs: {recipe.epochs}, seeds: {arguments.seeds}",
        flush=True,
    )
    runs: list[Run] = []
    names = with_estimators(arguments.methods)
    with progress(len(arguments.strengths) * arguments.seeds * len(names) * recipe.epochs, "epochs") as bar:
        for strength in arguments.strengths:
            for seed in range(arguments.seeds):
                bar.set_description(f"strength {strength:g}, seed {seed}")
                new = train_all(data, recipe, strength, seed, names, bar.update)
                runs += new
                bar.write(
                    f"strength {strength:g}, seed {seed}: "
                    + ", ".join(f"{run.method} {run.test_accuracy[-1]:.1%}" for run in new)
                )
    text = describe(runs, arguments.seeds)
    print(f"\n{text}")
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    content = {
        "study": "stochastic-label-noise",
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("study", "out", "data_dir")},
        "recipe": asdict(recipe),
        "versions": report.versions(arguments.device),
        "runs": [asdict(run) for run in runs],
    }
    report.write_json(folder / "results.json", content)
    draw(runs, folder / "accuracy.png", title=f"{data.name}, patterned label noise, {arguments.seeds} seeds")
    print(f"written: {folder / 'table.md'}, {folder / 'accuracy.png'}, {folder / 'results.json'}")


def check(arguments: argparse.Namespace) -> None:
    """Raises StudyError for a value out of range."""
    for name, fine, says in (
        ("strengths", all(0 <= p < 1 for p in arguments.strengths), "from 0 up to, but not including, 1"),
        ("epochs", arguments.epochs >= 1, "1 or more"),
        ("seeds", arguments.seeds >= 1, "1 or more"),
        ("batch_size", arguments.batch_size >= 1, "1 or more"),
        ("lr", math.isfinite(arguments.lr) and arguments.lr > 0, "more than 0"),
        ("weight", math.isfinite(arguments.weight) and arguments.weight >= 0, "0 or more"),
        ("margin", math.isfinite(arguments.margin), "a finite number"),
        ("threads", arguments.threads >= 1, "1 or more"),
    ):
        if not fine:
            raise StudyError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}: choose {says}")


def _of(runs: Sequence[Run], method: str, strength: float) -> list[Run]:
    return [run for run in runs if run.method == method and run.strength == strength]


def _methods(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.method for run in runs))


def describe(runs: Sequence[Run], seeds: int) -> str:
    """Test accuracy by method and strength, then what the strongest noise up to 0.4 did, as Markdown."""
    strengths = list(dict.fromkeys(run.strength for run in runs))
    rows = [
        [method, *(report.percent([run.test_accuracy[-1] for run in _of(runs, method, p)]) for p in strengths)]
        for method in _methods(runs)
    ]
    closer = max((p for p in strengths if p <= 0.4), default=strengths[0])
    details = []
    for method in _methods(runs):
        mine = _of(runs, method, closer)
        deviations = [run.log_deviation for run in mine]
        known = None not in deviations
        details.append(
            [
                method,
                f"{mine[0].weights:,}",
                report.percent([max(run.test_accuracy) for run in mine]),
                report.percent([run.memorized for run in mine]),
                report.plus_minus([d[0] for d in deviations], 2) if known else "-",
                report.plus_minus([d[1] for d in deviations], 2) if known else "-",
                "-" if mine[0].corruption_error is None
                else report.plus_minus([run.corruption_error for run in mine], 3),
                report.plus_minus([run.seconds for run in mine], 1),
            ]
        )  # fmt: skip
    header = [
        "method", "weights", "test, best epoch", "flipped labels memorized", "log sigma, right labels",
        "log sigma, flipped labels", "error of the estimated corruption", "seconds",
    ]  # fmt: skip
    return (
        f"Test accuracy after the last epoch, in percent, by share of flipped labels; mean ± standard deviation over "
        f"{seeds} seeds ({PAPER}):\n\n"
        + report.markdown_table(["method", *(f"{100 * p:g} %" for p in strengths)], rows)
        + f"\n\nAt {100 * closer:g} %:\n\n"
        + report.markdown_table(header, details)
    )


def draw(runs: Sequence[Run], path: Path, *, title: str) -> None:
    """Accuracy against strength, bars one standard deviation, and against epochs at the largest strength up to 0.4."""
    strengths = list(dict.fromkeys(run.strength for run in runs))
    closer = max((p for p in strengths if p <= 0.4), default=strengths[0])
    figure = Figure(figsize=(11, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    looks = dict(zip(METHODS, zip(COLORS, MARKERS)))
    methods = _methods(runs)
    for number, method in enumerate(methods):
        color, marker = looks[method]
        ends = [report.mean_and_deviation([100 * r.test_accuracy[-1] for r in _of(runs, method, p)]) for p in strengths]
        # Moved a little apart, so that bars do not hide each other.
        x = [100 * p + 0.45 * (number - (len(methods) - 1) / 2) for p in strengths]
        left.errorbar(
            x, [mean for mean, _ in ends], [deviation for _, deviation in ends], color=color, marker=marker,
            markersize=5, linewidth=1.6, capsize=2, label=method,
        )  # fmt: skip
        # No bands: those of seven methods would hide the lines; the left panel has the deviations.
        curves = 100 * np.array([run.test_accuracy for run in _of(runs, method, closer)])
        epochs = np.arange(1, curves.shape[1] + 1)
        right.plot(epochs, curves.mean(0), color=color, linewidth=1.6, marker=marker, markersize=3.5)
    left.set_xlabel("flipped training labels, %")
    left.set_xticks([100 * p for p in strengths])
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_title("Test accuracy after the last epoch", fontsize=10.5, loc="left")
    right.set_xlabel("epoch")
    right.set_title(f"Test accuracy at {100 * closer:g} % flipped labels", fontsize=10.5, loc="left")
    for panel in (left, right):
        panel.yaxis.set_major_formatter("{x:.0f} %")
        panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path)
