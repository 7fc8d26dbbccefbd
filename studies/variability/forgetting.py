"""Catastrophic forgetting: tasks learned one after the other by Adam and by NVRM-Adam (NVRM paper, section 4,
experiment 4, and appendix C.2; Figures 4, 11 and 12).

Permuted: five tasks, each with a random permutation of the pixels, one head; after the last task the accuracy of the
first task and of all, against b (Figure 4), and for one b after each task (Figure 11). Split: five tasks of two classes
each, five heads of which a task trains only its own (Figure 12). At a seed all methods have the same tasks, initial
weights and batches. Everything is measured on clean weights and test images; nothing was chosen by them.

The paper does not say what becomes of Adam's moments when a new permutation comes: they are kept (--optimizer-state).
Split tasks start with a new optimizer, as in the paper, and no weight decay.

Written to --out: table.md, figure4.png, figure11.png, figure12.png and results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from studies import tables
from studies.data import ImageData
from studies.optimizers import ADAM, NVRM_ADAM
from studies.settings import SOME, Count, Positive
from studies.study import Context, Report, Row
from studies.variability import looks
from studies.variability.continual import report as continual
from studies.variability.continual.tasks import TASKS
from studies.variability.continual.training import ContinualStudy, learn, paper, tiny

FIGURES = {"permuted": "figure11.png", "split": "figure12.png"}
WORDS = {"permuted": "permuted pixels", "split": "two classes a task"}


@dataclass(frozen=True, kw_only=True)
class Forgetting(ContinualStudy):
    """The settings of forgetting."""

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
