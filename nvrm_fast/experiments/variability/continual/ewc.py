"""Elastic weight consolidation with Adam and with NVRM-Adam on permuted pixels (NVRM paper, section 4, experiment 4,
and appendix C.2; Figure 5).

After each task the diagonal of the Fisher information is taken at the clean weights (exactly over labels, a mean over
up to --fisher-images training images), and from then on lambda / 2 * F (weight - anchor)^2 is part of the loss. With
NVRM-Adam the penalty sees the noisy weights like the rest of the loss (--penalty-at clean: the clean ones); in the mean
over the noise both have the same gradient. Tasks, weights and batches are those of the study "forgetting".

Written to --out: table.md, figure5.png, results.json, and runs.jsonl, from which a stopped study goes on.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, option
from nvrm_fast.experiments.variability.continual import report as continual_report
from nvrm_fast.experiments.variability.continual import tasks
from nvrm_fast.experiments.variability.continual import training as continual
from nvrm_fast.experiments.variability.continual.options import ContinualSettings, paper, tiny
from nvrm_fast.experiments.variability.continual.report import Line, name_of
from nvrm_fast.experiments.variability.continual.training import Spring

NAME = "ewc"
HELP = "elastic weight consolidation with Adam and NVRM-Adam (NVRM paper, Figure 5)"
_LOOKS = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (5, 1)), "v"))  # a lambda each


@dataclass(frozen=True)
class EwcSettings(ContinualSettings):
    """Options of the study."""

    importances: tuple[float, ...] = option(
        (0.0, 30.0, 300.0, 1000.0),
        "lambda of the penalty; 0: without",
        type=float,
        nargs="+",
        metavar="LAMBDA",
        check=(lambda values: all(math.isfinite(value) and value >= 0 for value in values), "0 or more for each"),
    )
    penalty_at: str = option("noisy", "weights that NVRM's penalty sees", choices=("noisy", "clean"))
    fisher_images: int = option(2000, "images that the Fisher information takes", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": paper(fisher_images=60_000),
        "tiny": tiny(importances=(0.0, 300.0), fisher_images=50),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=EwcSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run everything, print the tables and write the results."""
    chosen = settings.from_arguments(arguments, EwcSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    record = Record(folder, NAME, chosen, extending=("importances",))
    started = time.perf_counter()
    runs = compare(data, chosen, record)
    lines = lines_of(chosen, runs)
    text = describe(chosen, runs, lines)
    content = {
        "study": NAME,
        "settings": asdict(chosen),
        "versions": report.versions(chosen.device),
        "seconds_of_this_call": time.perf_counter() - started,
        "runs": runs,
    }
    report.write_json(folder / "results.json", content)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    title = f"{data.name}, permuted pixels, EWC, b = {chosen.variability:g}, {chosen.seeds} seed"
    continual_report.draw_curves(lines, folder / "figure5.png", title=title + "s" * (chosen.seeds > 1))
    print(f"\n{text}\n\nwritten: {folder / 'figure5.png'}, {folder / 'table.md'}, {folder / 'results.json'}")


def compare(data: ImageData, chosen: EwcSettings, record: Record) -> list[dict[str, Any]]:
    """All runs: dictionaries with variability, importance, seed and what ``continual.learn`` gives."""
    # By seeds first: a study that is stopped has all methods at the seeds it came to.
    places = list(itertools.product(range(chosen.seeds), chosen.importances, (0.0, chosen.variability)))
    runs = []
    with progress(len(places), "runs") as bar:
        for seed, importance, scale in places:
            bar.set_description(f"{name_of(scale)}, lambda {importance:g}, seed {seed}")
            place = {"variability": scale, "importance": importance, "seed": seed}
            runs.append(place | record.run(place, partial(one_run, data, chosen, **place)))
            bar.update()
    return runs


def one_run(
    data: ImageData, chosen: EwcSettings, *, variability: float, importance: float, seed: int
) -> dict[str, Any]:
    """Learn all tasks with one optimizer and one lambda."""
    spring = Spring(importance, chosen.penalty_at == "clean", chosen.fisher_images) if importance else None
    learned = tasks.permuted(data, chosen.tasks, seed)
    return continual.learn(learned, data.classes, chosen.recipe(), variability=variability, seed=seed, spring=spring)


def lines_of(chosen: EwcSettings, runs: list[dict[str, Any]]) -> list[Line]:
    """A line for each optimizer and lambda; the optimizers of one lambda follow each other."""
    lines = []
    for number, importance in enumerate(chosen.importances):
        for scale in (0.0, chosen.variability):
            mine = [run for run in runs if (run["variability"], run["importance"]) == (scale, importance)]
            label = f"{name_of(scale)}, λ = {importance:g}"
            lines.append(Line(label, name_of(scale), mine, *_LOOKS[number % len(_LOOKS)]))
    return lines


def describe(chosen: EwcSettings, runs: list[dict[str, Any]], lines: list[Line]) -> str:
    """After the last task by lambda, and after each task."""
    rows = [
        ([line.optimizer, f"{line.runs[0]['importance']:g}"], line.runs, adam.runs)
        for adam, nvrm in zip(lines[::2], lines[1::2])
        for line in (adam, nvrm)
    ]
    final = continual_report.final_table(["optimizer", "lambda"], rows)
    return (
        f"{chosen.data}, permuted, b = {chosen.variability:g}: test accuracy in percent after {chosen.tasks} tasks, "
        f"mean ± standard deviation over {chosen.seeds} seeds;\ngain: over Adam at the same lambda and seed\n\n"
        f"{final}\n\n{continual_report.curve_table(lines)}"
    )
