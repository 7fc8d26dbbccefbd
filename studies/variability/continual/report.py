"""Tables and figures of the studies of continual learning, laid out as the NVRM paper's Figures 4, 5, 11 and 12.

A row has ``accuracy``, as ``training.learn`` gives it, and ``variability``, which is 0 for Adam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies import figures, tables
from studies.optimizers import ADAM, NVRM_ADAM, NVRM_SGD, SGD
from studies.study import Row
from studies.variability import looks

#: As their relatives have them in the other figures.
COLOR = {ADAM: looks.COLORS[SGD], NVRM_ADAM: looks.COLORS[NVRM_SGD]}


def base_task(run: Row) -> list[float]:
    """The accuracy of the first task after each task."""
    return [accuracies[0] for accuracies in run["accuracy"]]


def all_learned(run: Row) -> list[float]:
    """The mean accuracy of all tasks learned so far after each task."""
    return [sum(accuracies) / len(accuracies) for accuracies in run["accuracy"]]


def just_learned(run: Row) -> float:
    """The accuracy of a task right after it was learned, mean over the tasks: how well the method still learns."""
    return sum(accuracies[-1] for accuracies in run["accuracy"]) / len(run["accuracy"])


def forgotten(run: Row) -> float:
    """delta_AB of the NVRM paper's section 2.3: by how much the training loss of the first task grows while the second
    is learned."""
    return run["base_loss"][1] - run["base_loss"][0]


MEASURES = ((base_task, "Base task"), (all_learned, "Mean of all learned tasks"))


def name_of(variability: float) -> str:
    """The paper's name of the optimizer with this b."""
    return ADAM if variability == 0 else NVRM_ADAM


def final_table(rows: Sequence[Row], by: Sequence[str], place: Mapping[str, str], at_same: Sequence[str] = ()) -> str:
    """Accuracies in percent after the last task, mean ± standard deviation over seeds, and how much they are above
    Adam's at the same seeds, with 95 % intervals.

    Args:
        rows: of one kind of tasks.
        by: names whose values tell the methods apart; "variability" is one.
        place: the columns that do so, as ``tables.table`` takes them.
        at_same: names whose values a method shares with the Adam that it is compared with.
    """
    adam = tables.select(rows, variability=0.0)
    base, together = (lambda run, measure=measure: measure(run)[-1] for measure in (base_task, all_learned))
    columns = {
        "optimizer": tables.words(lambda row: name_of(row["variability"])),
        **place,
        "base task": tables.shares(base),
        "all tasks": tables.shares(together),
        "just learned": tables.shares(just_learned),
        "base task, gain": tables.above(base, adam, at_same),
        "all tasks, gain": tables.above(together, adam, at_same),
    }
    if all(len(row.get("base_loss", ())) > 1 for row in rows):  # results of earlier versions have none
        columns["δ_AB"] = tables.means(forgotten, 3)
    return tables.table(rows, by, columns)


def curve_table(lines: Mapping[str, Sequence[Row]]) -> str:
    """The figures' curves as numbers: a column a number of learned tasks. lines: the runs of each by its label."""
    count = len(next(iter(lines.values()))[0]["accuracy"])
    cells = [
        [label, heading, *(tables.percent([measure(run)[task] for run in runs]) for task in range(count))]
        for label, runs in lines.items()
        for measure, heading in MEASURES
    ]
    return tables.markdown(["method", "accuracy of", *(f"{task + 1} learned" for task in range(count))], cells)


def draw_curves(lines: Mapping[str, Sequence[Row]], looks_of: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Figures 5, 11 and 12: both measures against the number of learned tasks; bands are one standard deviation.
    looks_of: marker and style of each line."""
    figure, (panels,) = figures.new_figure(1, 2, width=9.6, height=4.2, title=title)
    for panel, (measure, heading) in zip(panels, MEASURES):
        for (label, runs), look in zip(lines.items(), looks_of):
            color = COLOR[name_of(runs[0]["variability"])]
            figures.over_epochs(panel, [measure(run) for run in runs], color=color, label=label, **look)
        figures.name_axes(panel, heading, "tasks learned", "test accuracy")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    figures.legend_below(figure, panels[0], columns=4)
    return figure


def draw_scales(rows: Sequence[Row], title: str) -> Figure:
    """Figure 4: both measures after the last task against b; Adam is the level line."""
    figure, (panels,) = figures.new_figure(1, 2, width=9.6, height=4.2, title=title)
    by_scale = {scale: runs for (scale,), runs in tables.groups(rows, "variability").items()}
    adam = by_scale.pop(0.0)
    for panel, (measure, heading) in zip(panels, MEASURES):
        figures.level(panel, [measure(run)[-1] for run in adam], color=COLOR[ADAM], label=ADAM)
        ends = [[measure(run)[-1] for run in runs] for runs in by_scale.values()]
        figures.over_scale(panel, list(by_scale), ends, color=COLOR[NVRM_ADAM], marker="o", label=NVRM_ADAM)
        figures.name_axes(panel, heading, "b", "test accuracy")
        figures.tick_scales(panel, list(by_scale))
    panels[0].legend()
    return figure
