"""The table of a grid of trainings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nvrm_fast.experiments import report
from nvrm_fast.experiments.variability.grid import Result


def results_table(results: Sequence[Result], place: Mapping[str, Callable[[dict[str, Any]], str]]) -> str:
    """One row a cell. Accuracies in percent, mean ± standard deviation over seeds.

    Args:
        results: of ``run_grid``.
        place: columns that tell the cells apart: a heading, and what a cell's place says there.
    """
    flipped = any(run.memorized[-1] is not None for one in results for run in one.runs)
    header = [*place, "optimizer", "test, last epoch", "test, best epoch"]
    header += ["training, corrupted labels", "flipped labels memorized"] if flipped else ["training", "gap"]
    header += ["seconds an epoch", "state, bytes a weight"]
    rows = []
    for one in results:
        row = [says(one.cell.place) for says in place.values()]
        row += [
            one.cell.optimizer,
            report.percent(one.last("test_accuracy")),
            report.percent(one.best("test_accuracy")),
        ]
        row += [report.percent(one.last("train_accuracy"))]
        row += [report.percent(one.last("memorized") if flipped else gap(one))]
        row += [
            report.plus_minus([statistics.fmean(run.seconds) for run in one.runs], 2),
            report.plus_minus([run.state_bytes_a_parameter for run in one.runs], 2),
        ]
        rows.append(row)
    return report.markdown_table(header, rows)


def gap(one: Result) -> list[float]:
    """The generalization gap after the last epoch, training accuracy less test accuracy, one value a seed."""
    return [train - test for train, test in zip(one.last("train_accuracy"), one.last("test_accuracy"))]
