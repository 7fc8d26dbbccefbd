"""Catastrophic forgetting: tasks learned one after the other by Adam and by NVRM-Adam (NVRM paper, section 4,
experiment 4, and appendix C.2; Figures 4, 11 and 12).

Permuted: five tasks, each with a random permutation of the pixels, one head; after the last task the accuracy of the
first task and of all, against b (Figure 4), and for one b after each task (Figure 11). Split: five tasks of two classes
each, five heads of which a task trains only its own (Figure 12). At a seed all methods have the same tasks, initial
weights and batches. Everything is measured on clean weights and test images; nothing was chosen by them.

The paper does not say what becomes of Adam's moments when a new permutation comes: they are kept (--optimizer-state).
Split tasks start with a new optimizer, as in the paper, and no weight decay.

Written to --out: table.md, figure4.png, figure11.png, figure12.png, results.json, and runs.jsonl, from which a stopped
study goes on.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, option
from nvrm_fast.experiments.variability.continual import report as continual_report
from nvrm_fast.experiments.variability.continual import training as continual
from nvrm_fast.experiments.variability.continual.options import ALL_POSITIVE, ContinualSettings, paper, tiny
from nvrm_fast.experiments.variability.continual.report import ADAM, NVRM_ADAM, Line, name_of
from nvrm_fast.experiments.variability.continual.tasks import TASKS
from nvrm_fast.experiments.variability.continual.training import Recipe

NAME = "forgetting"
HELP = "Adam against NVRM-Adam on permuted and split tasks (NVRM paper, Figures 4, 11 and 12)"
CURVES = {"permuted": "figure11.png", "split": "figure12.png"}
SWEEP = "figure4.png"


@dataclass(frozen=True)
class ForgettingSettings(ContinualSettings):
    """Options of the study."""

    task: str = option("both", "kind of tasks", choices=(*TASKS, "both"))
    scales: tuple[float, ...] = option(
        (0.01, 0.05, 0.1), "other values of b, for Figure 4", type=float, nargs="*", metavar="B", check=ALL_POSITIVE
    )
    # 12 passes over two classes of mnist-5000 are 48 steps; the paper's one pass is 45 to 50.
    split_epochs: int = option(12, "passes over the images of a split task", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": paper(scales=(0.005, 0.01, 0.02, 0.05, 0.1), split_epochs=1),
        "tiny": tiny(scales=(0.1,), split_epochs=1),
    }

    def kinds(self) -> tuple[str, ...]:
        """The kinds of tasks that are run."""
        return tuple(TASKS) if self.task == "both" else (self.task,)

    def all_scales(self) -> list[float]:
        """0 for Adam, then every b."""
        return [0.0, *sorted({self.variability, *self.scales})]

    def recipe_of(self, kind: str) -> Recipe:
        """How tasks of this kind are trained (appendix C.2)."""
        if kind == "permuted":
            return self.recipe()
        return replace(self.recipe(), epochs=self.split_epochs, weight_decay=0.0, new_optimizers=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=ForgettingSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run everything, print the tables and write the results."""
    chosen = settings.from_arguments(arguments, ForgettingSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    record = Record(folder, NAME, chosen, extending=("task", "scales"))
    started = time.perf_counter()
    runs = compare(data, chosen, record)
    text = "\n\n".join(describe(kind, chosen, runs) for kind in chosen.kinds())
    content = {
        "study": NAME,
        "settings": asdict(chosen),
        "versions": report.versions(chosen.device),
        "seconds_of_this_call": time.perf_counter() - started,
        "runs": runs,
    }
    report.write_json(folder / "results.json", content)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    drawn = draw(data.name, chosen, runs, folder)
    written = [*drawn, folder / "table.md", folder / "results.json"]
    print(f"\n{text}\n\nwritten: {', '.join(map(str, written))}")


def compare(data: ImageData, chosen: ForgettingSettings, record: Record) -> list[dict[str, Any]]:
    """All runs: dictionaries with task, variability, seed and what ``continual.learn`` gives."""
    # By seeds first: a study that is stopped has all methods at the seeds it came to.
    places = list(itertools.product(range(chosen.seeds), chosen.kinds(), chosen.all_scales()))
    runs = []
    with progress(len(places), "runs") as bar:
        for seed, kind, scale in places:
            bar.set_description(f"{kind}, {name_of(scale)}, b = {scale:g}, seed {seed}")
            place = {"task": kind, "variability": scale, "seed": seed}
            result = record.run(place, partial(one_run, data, chosen, **place))
            runs.append(place | result)
            bar.update()
    return runs


def one_run(data: ImageData, chosen: ForgettingSettings, *, task: str, variability: float, seed: int) -> dict[str, Any]:
    """Learn all tasks of a kind with one optimizer."""
    tasks = TASKS[task](data, chosen.tasks, seed)
    classes = data.classes if task == "permuted" else 2
    return continual.learn(tasks, classes, chosen.recipe_of(task), variability=variability, seed=seed)


def _some(runs: list[dict[str, Any]], kind: str, scale: float) -> list[dict[str, Any]]:
    return [run for run in runs if (run["task"], run["variability"]) == (kind, scale)]


def _lines(kind: str, chosen: ForgettingSettings, runs: list[dict[str, Any]]) -> list[Line]:
    return [
        Line(ADAM, ADAM, _some(runs, kind, 0.0), "--", "s"),
        Line(f"{NVRM_ADAM}, b = {chosen.variability:g}", NVRM_ADAM, _some(runs, kind, chosen.variability)),
    ]


def describe(kind: str, chosen: ForgettingSettings, runs: list[dict[str, Any]]) -> str:
    """The tables of one kind of tasks: after the last task by b, and after each task."""
    adam = _some(runs, kind, 0.0)
    rows = [
        ([name_of(scale), "-" if scale == 0 else f"{scale:g}"], adam if scale == 0 else _some(runs, kind, scale), adam)
        for scale in chosen.all_scales()
    ]
    final = continual_report.final_table(["optimizer", "b"], rows)
    curves = continual_report.curve_table(_lines(kind, chosen, runs))
    return (
        f"{chosen.data}, {kind}: test accuracy in percent after {chosen.tasks} tasks, mean ± standard deviation over "
        f"{chosen.seeds} seeds;\ngain: over Adam at the same seed\n\n{final}\n\n{curves}"
    )


def draw(name: str, chosen: ForgettingSettings, runs: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Figure 4 for permuted pixels, and the curves of each kind of tasks; returns what was written."""
    written = []
    seeds = f"{chosen.seeds} seed{'s' * (chosen.seeds > 1)}"
    if "permuted" in chosen.kinds():
        by_scale = {scale: _some(runs, "permuted", scale) for scale in chosen.all_scales()[1:]}
        title = f"{name}, permuted pixels, after {chosen.tasks} tasks, {seeds}"
        continual_report.draw_sweep(_some(runs, "permuted", 0.0), by_scale, folder / SWEEP, title=title)
        written.append(folder / SWEEP)
    for kind in chosen.kinds():
        words = "permuted pixels" if kind == "permuted" else "two classes a task"
        continual_report.draw_curves(
            _lines(kind, chosen, runs), folder / CURVES[kind], title=f"{name}, {words}, {seeds}"
        )
        written.append(folder / CURVES[kind])
    return written
