"""Catastrophic forgetting of tasks that are learned one after the other (NVRM paper, section 4, experiment 4, and
appendix C.2).

At a seed all methods have the same tasks, initial weights and batches. Everything is measured on clean weights and test
images; nothing was chosen by them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from studies import tables
from studies.data import ImageData
from studies.optimizers import ADAM, NVRM_ADAM
from studies.settings import SOME, Count, NotNegative, Positive
from studies.study import Context, Report, Row
from studies.variability import looks
from studies.variability.continual import report as continual
from studies.variability.continual.tasks import TASKS, permuted
from studies.variability.continual.training import ContinualStudy, Penalty, learn, paper, tiny

FIGURES = {"permuted": "figure11.png", "split": "figure12.png"}
WORDS = {"permuted": "permuted pixels", "split": "two classes a task"}


@dataclass(frozen=True, kw_only=True)
class Forgetting(ContinualStudy):
    """Catastrophic forgetting: tasks learned one after the other by Adam and by NVRM-Adam (Figures 4, 11 and 12).

    Permuted: five tasks, each with a random permutation of the pixels, one head; after the last task the accuracy of
    the first task and of all, against b (Figure 4), and for one b after each task (Figure 11). Split: five tasks of two
    classes each, five heads of which a task trains only its own (Figure 12).

    The paper does not say what becomes of Adam's moments when a new permutation comes: here they are kept, unless
    --optimizer-state says otherwise. Split tasks start with a new optimizer, as in the paper, and no weight decay.

    Written to --out: table.md, figure4.png, figure11.png, figure12.png and results.json.
    """

    task: Annotated[tuple[Literal["permuted", "split"], ...], SOME] = ("permuted", "split")
    """kind of tasks, one or both"""
    scales: tuple[Positive, ...] = (0.01, 0.05, 0.1)
    """other values of b, for Figure 4"""
    # 12 passes over two classes of mnist-5000 are 48 steps; the paper's one pass is 45 to 50.
    split_epochs: Count = 12
    """passes over the images of a split task"""

    presets = {
        "tiny": tiny(scales=(0.1,), split_epochs=1),
        "quick": {},
        "paper": paper(scales=(0.005, 0.01, 0.02, 0.05, 0.1), split_epochs=1),
    }
    extends = ("task", "scales")

    def prepare(self) -> ImageData:
        """The images; refuses more tasks than they have."""
        data = super().prepare()
        for kind in self.task:
            TASKS[kind](data, self.tasks, 0)
        return data

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first, then the kinds of tasks, and Adam before every b."""
        scales = (0.0, *sorted({self.variability, *self.scales}))
        for seed, kind, b in itertools.product(range(self.seeds), self.task, scales):
            yield {"task": kind, "variability": b, "seed": seed}

    def of_kind(self, kind: str) -> Forgetting:
        """How tasks of this kind are trained (appendix C.2)."""
        split = {"epochs": self.split_epochs, "weight_decay": 0.0, "optimizer_state": "new"}
        return replace(self, **(split if kind == "split" else {}))

    def run(self, context: Context, *, task: str, variability: float, seed: int) -> dict[str, Any]:
        """Learn all tasks of a kind with one optimizer."""
        data = context.prepared
        tasks, classes = TASKS[task](data, self.tasks, seed), data.classes if task == "permuted" else 2
        return learn(tasks, classes, self.of_kind(task), variability=variability, seed=seed, advance=context.advance)

    def report(self, rows: list[Row]) -> Report:
        """For each kind of tasks the table after the last task by b, and that after each task; the figures."""
        texts, drawn = [], {}
        for kind in self.task:
            mine = tables.select(rows, task=kind)
            lines = {
                ADAM: tables.select(mine, variability=0.0),
                f"{NVRM_ADAM}, b = {self.variability:g}": tables.select(mine, variability=self.variability),
            }
            texts.append(
                f"{self.data}, {kind}: test accuracy in percent after {self.tasks} tasks, mean ± standard "
                f"deviation over seeds, their number: {self.seeds};\ngain: over Adam at the same seeds, with 95 % "
                f"intervals\n\n{continual.final_table(mine, ['variability'], {'b': 'variability'})}\n\n"
                + continual.curve_table(lines)
            )
            if kind == "permuted":
                title = looks.title(self, WORDS[kind], f"after {self.tasks} tasks")
                drawn["figure4.png"] = continual.draw_scales(mine, title)
            styles = ({"linestyle": "--", "marker": "s"}, {"marker": "o"})
            drawn[FIGURES[kind]] = continual.draw_curves(lines, styles, looks.title(self, WORDS[kind]))
        return Report("\n\n".join(texts), drawn)

    def summary(self, row: Row) -> str:
        return f"all tasks {continual.all_learned(row)[-1]:.1%}"


#: A lambda each.
STYLES = [
    {"linestyle": style, "marker": marker}
    for style, marker in (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (5, 1)), "v"))
]


@dataclass(frozen=True, kw_only=True)
class Ewc(ContinualStudy):
    """Elastic weight consolidation with Adam and with NVRM-Adam on permuted pixels (Figure 5).

    After each task the diagonal of the Fisher information is taken at the clean weights (exactly over labels, a mean
    over up to --fisher-images training images; --fisher batch: squared gradients of mini-batches, as much code has it,
    which are about as many times smaller as a mini-batch has images, and lambda stands for as much weaker a penalty),
    and from then on lambda / 2 * F (weight - anchor)^2 is part of the loss. With NVRM-Adam the penalty sees the noisy
    weights like the rest of the loss (--penalty-at clean: the clean ones); in the mean over the noise both have the
    same gradient. Tasks, weights and batches are those of the study forgetting.

    Written to --out: table.md, figure5.png and results.json.
    """

    importances: Annotated[tuple[NotNegative, ...], SOME] = (0.0, 30.0, 300.0, 1000.0)
    """lambda of the penalty, one or more; 0: without"""
    penalty_at: Literal["noisy", "clean"] = "noisy"
    """weights that NVRM's penalty sees"""
    fisher: Literal["exact", "batch"] = "exact"
    """Fisher information: its expectation over images and labels, or squared gradients of mini-batches' mean losses"""
    fisher_images: Count = 2000
    """images that the Fisher information takes"""

    presets = {
        "tiny": tiny(importances=(0.0, 300.0), fisher_images=50),
        "quick": {},
        "paper": paper(fisher_images=60_000),
    }
    extends = ("importances",)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first, then lambdas, each with Adam and NVRM-Adam."""
        methods = itertools.product(range(self.seeds), self.importances, (0.0, self.variability))
        for seed, importance, b in methods:
            yield {"variability": b, "importance": importance, "seed": seed}

    def run(self, context: Context, *, variability: float, importance: float, seed: int) -> dict[str, Any]:
        """Learn all tasks with one optimizer and one lambda."""
        data = context.prepared
        penalty = (
            Penalty(importance, self.penalty_at == "clean", self.fisher_images, self.fisher == "batch")
            if importance
            else None
        )
        return learn(
            permuted(data, self.tasks, seed), data.classes, self, variability=variability, seed=seed,
            penalty=penalty, advance=context.advance,
        )  # fmt: skip

    def report(self, rows: list[Row]) -> Report:
        """The tables after the last task by lambda and after each task, and the figure."""
        lines = {
            f"{continual.name_of(b)}, λ = {importance:g}": runs
            for (importance, b), runs in tables.groups(rows, "importance", "variability").items()
        }
        by = ["importance", "variability"]
        place = {"lambda": tables.first("{importance:g}")}
        text = (
            f"{self.data}, permuted, b = {self.variability:g}: test accuracy in percent after {self.tasks} "
            f"tasks, mean ± standard deviation over seeds, their number: {self.seeds};\ngain: over Adam at the same "
            f"lambda and seeds, with 95 % intervals\n\n{continual.final_table(rows, by, place, at_same=['importance'])}"
            f"\n\n{best_of_each(self, rows)}\n\n{continual.curve_table(lines)}"
        )
        styles = [STYLES[number // 2 % len(STYLES)] for number in range(len(lines))]
        title = looks.title(self, "permuted pixels, EWC", f"b = {self.variability:g}")
        return Report(text, {"figure5.png": continual.draw_curves(lines, styles, title)})

    def summary(self, row: Row) -> str:
        return f"all tasks {continual.all_learned(row)[-1]:.1%}"


def best_of_each(settings: Ewc, rows: list[Row]) -> str:
    """Each optimizer at the lambda with the best mean of all tasks, by the test images, and their difference."""

    def ends(runs: list[Row]) -> list[float]:
        return [continual.all_learned(run)[-1] for run in runs]

    words, values = [], []
    for b in (0.0, settings.variability):
        of_lambda = tables.groups(tables.select(rows, variability=b), "importance")
        (importance,), runs = max(of_lambda.items(), key=lambda item: sum(ends(item[1])))
        words.append(f"{continual.name_of(b)} at lambda {importance:g} {tables.percent(ends(runs))}")
        values.append(ends(runs))
    gain = tables.paired(values[1], values[0])
    return f"All tasks, each optimizer at its best lambda of the table: {words[0]}, {words[1]}; gain {gain}."
