"""Robustness to noisy labels: the same network trained by SGD and by NVRM-SGD on real images with wrong labels.

The paper's experiment 3 (section 4, Figure 3) on a small scale. A share of the training labels is flipped, the test
labels are right. At each seed both optimizers start from the same weights, see the same wrong labels and the same
batches. Everything is measured on clean weights, after each epoch.

Written to --out: table.md, curves.png and results.json (settings, versions and all numbers of every epoch).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from nvrm_fast.experiments import report, settings, training
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import Settings
from nvrm_fast.experiments.training import NVRM_SGD, SGD, Run

NOTE = "accuracies in percent, on weights clean of noise; mean ± standard deviation over seeds, their number"
HELP = "SGD against NVRM-SGD on wrong labels (paper, Figure 3)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser)
    parser.add_argument(
        "--out", default="runs/label-noise", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the study, print the table and write the results."""
    chosen = settings.from_arguments(arguments)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    print(describe(chosen, data), flush=True)
    runs = compare(data, chosen)
    table = report.summary_table(runs)
    print(f"\n{table}\n\n{NOTE}: {chosen.seeds}")
    save(folder, chosen, runs, table)
    print(f"written: {folder / 'curves.png'}, {folder / 'table.md'}, {folder / 'results.json'}")


def describe(chosen: Settings, data: ImageData) -> str:
    """One line on what is trained on what."""
    return (
        f"{data.name}: {len(data.train_labels)} training images, {100 * chosen.noise_rate:g} % of their labels flipped "
        f"({chosen.noise_kind}), {len(data.test_labels)} test images; network {chosen.network}, "
        f"b = {chosen.variability:g} ({chosen.noise}); epochs: {chosen.epochs}, seeds: {chosen.seeds}"
    )


def compare(data: ImageData, chosen: Settings, optimizers: Sequence[str] = (SGD, NVRM_SGD)) -> list[Run]:
    """Train with every optimizer at seeds 0, 1, ... and report each finished run in a line.

    Args:
        data: as ``standardize`` gives it.
        chosen: all settings; ``data`` and ``data_dir`` are not looked at any more.
        optimizers: names that ``training.make_optimizer`` knows.
    """
    runs = []
    with progress(chosen.seeds * len(optimizers) * chosen.epochs, "epochs") as bar:
        for seed in range(chosen.seeds):
            problem = training.corrupt(data, chosen, seed)
            for optimizer in optimizers:
                bar.set_description(f"{optimizer}, seed {seed}")
                run = training.train(problem, chosen, optimizer, seed, after_epoch=bar.update)
                runs.append(run)
                bar.write(
                    f"seed {seed}  {optimizer:8s}  test {run.test_accuracy[-1]:6.1%}  training on corrupted labels "
                    f"{run.train_accuracy[-1]:6.1%}  {sum(run.seconds) / chosen.epochs:.2f} s an epoch"
                )
    return runs


def save(folder: Path, chosen: Settings, runs: Sequence[Run], table: str) -> None:
    """Write table.md, results.json and curves.png into a folder."""
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    content = {
        "study": "label-noise",
        "settings": asdict(chosen) | {"lr_drops": chosen.drops},
        "versions": report.versions(chosen.device),
        "runs": [asdict(run) for run in runs],
    }
    report.write_json(folder / "results.json", content)
    report.draw_curves(
        runs,
        folder / "curves.png",
        title=f"{chosen.data}, {100 * chosen.noise_rate:g} % of the training labels flipped ({chosen.noise_kind}), "
        f"{chosen.network}, b = {chosen.variability:g}, {chosen.seeds} seed{'s' * (chosen.seeds > 1)}",
        noise_rate=chosen.noise_rate,
        drops=chosen.drops,
    )
