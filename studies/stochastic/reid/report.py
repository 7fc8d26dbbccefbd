"""Table 4 of the SE-SNN paper and what lies behind it; Figures 3b (sigma of right and wrong labels) and 3c (the
pictures of the largest and the smallest sigma)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from studies import figures, tables
from studies.figures import COLORS
from studies.stochastic.methods import LOOKS, SE_SNN
from studies.stochastic.reid import market1501
from studies.study import Report, Row
from studies.tables import groups, means, select, shares, values

_SCORES = {"mAP": "mAP", "rank1": "rank 1", "rank5": "rank 5", "rank10": "rank 10"}
PAPER = (
    "the paper, Market-1501, mAP at 10, 20 and 50 %: baseline 25.87, 23.49, 20.74; SE-SNN 27.30, 24.72, 21.32; right "
    "labels: 67.66 and 70.20"
)
_WRONG, _RIGHT = COLORS[:2]


def report(settings: Any, rows: list[Row]) -> Report:
    """One table a strength as in Table 4, then sigma of right and wrong labels; sigma and pictures are SE-SNN's, and
    left out where it was not run, or where the pictures are not at hand any more."""
    first = settings.methods[0]
    parts = [
        f"Retrieval in percent, mean ± standard deviation over {settings.seeds} seeds ({PAPER}). gain: mAP minus that "
        f"of {first} at the same seed, with its 95 % interval. memorized: wrong labels that the network predicts as "
        "given."
    ]
    columns = {
        "method": "method",
        **{heading: shares(score) for score, heading in _SCORES.items()},
        "gain": tables.above("mAP", select(rows, method=first), ["strength"]),
        "training labels": shares("train"),
        "memorized": shares("memorized"),
        "seconds, stage 2": lambda mine: f"{statistics.fmean(values(mine, 'seconds')):.1f}",
    }
    for (strength,), mine in groups(rows, "strength").items():
        parts.append(f"{100 * strength:g} % wrong labels:\n\n{tables.table(mine, ['method'], columns)}")
    sizes = sorted({(row["weights"], row["trained"]) for row in rows})
    parts.append("Weights, of which trained in stage 2: " + "; ".join(f"{all:,}, {part:,}" for all, part in sizes))
    stochastic = [row for row in rows if "sigma" in row]
    if stochastic:
        sigma = {
            "method": "method",
            "wrong labels": tables.words(lambda row: f"{100 * row['strength']:g} %"),
            "right": means(lambda row: row["sigma"]["right"], 3),
            "wrong": means(lambda row: row["sigma"]["wrong"], 3),
            "wrong / right": means(lambda row: (wrong := row["sigma"]["wrong"]) and wrong / row["sigma"]["right"], 3),
        }
        parts.append(
            "Mean sigma of the last unit over training pictures with right labels and with wrong ones:\n\n"
            + tables.table(stochastic, ["method", "strength"], sigma)
        )
    drawn = {"scores.png": draw_scores(rows)}
    mine = select(rows, method=SE_SNN)
    if mine and Path(settings.market).is_dir():
        drawn["pictures.png"] = draw_pictures(mine, market1501.read(settings.market).train.paths)
    if any(row["strength"] > 0 for row in mine):
        drawn["sigma.png"] = draw_sigma(mine)
    return Report("\n\n".join(parts), drawn)


def draw_scores(rows: list[Row]) -> Figure:
    """mAP and rank 1 by strength, a line a method, points the seeds'."""
    figure, (panels,) = figures.new_figure(
        1, 2, width=10.5, height=4.8, title="Market-1501: retrieval after training on wrong labels"
    )
    methods = groups(rows, "method")
    for panel, score, heading in zip(panels, ("mAP", "rank1"), ("Mean average precision", "Rank 1")):
        for number, ((method,), mine) in enumerate(methods.items()):
            look = LOOKS[method]
            by_strength = {strength: values(own, score) for (strength,), own in groups(mine, "strength").items()}
            # Moved a little apart, so that points do not hide each other.
            x = [100 * strength + 0.4 * (number - (len(methods) - 1) / 2) for strength in by_strength]
            panel.plot(x, [100 * statistics.fmean(of) for of in by_strength.values()], label=method, **look)
            for place, own in zip(x, by_strength.values()):
                panel.plot([place] * len(own), 100 * np.array(own), ".", color=look["color"], alpha=0.4, markersize=4)
        figures.name_axes(panel, heading, "wrong training labels, %")
        panel.set_xticks([100 * strength for (strength,) in groups(rows, "strength")])
    figures.legend_below(figure, panels[0], 4)
    return figure


def draw_sigma(rows: list[Row]) -> Figure:
    """Mean sigma of pictures with right and with wrong labels by strength: bars are means, points seeds."""
    figure, ((panel,),) = figures.new_figure(
        1, 1, width=6.4, height=4.2, title="Market-1501: sigma of SE-SNN's last unit"
    )
    wrong = groups([row for row in rows if row["strength"] > 0], "strength")
    for group, color, shift in (("right", _RIGHT, -0.2), ("wrong", _WRONG, 0.2)):
        for place, mine in enumerate(wrong.values()):
            sigmas = [row["sigma"][group] for row in mine]
            label = None if place else f"{group} labels"
            panel.bar(place + shift, statistics.fmean(sigmas), 0.38, color=color, label=label)
            panel.plot([place + shift] * len(sigmas), sigmas, "o", color="black", markersize=3.5)
    panel.set_xticks(range(len(wrong)), [f"{100 * strength:g} %" for (strength,) in wrong])
    figures.name_axes(
        panel, "Bars: mean over seeds; points: seeds", "wrong training labels", "mean sigma", percent=False
    )
    panel.set_ylim(0, 1.15 * panel.get_ylim()[1])
    panel.legend(ncols=2, loc="upper left")
    return figure


def draw_pictures(rows: list[Row], paths: Sequence[Path]) -> Figure:
    """The training pictures of the largest (above) and the smallest sigma at the smallest strength and first seed."""
    row = min(rows, key=lambda row: (row["strength"], row["seed"]))
    places = [row["loudest"], row["calmest"]]
    title = f"Market-1501: sigma of SE-SNN at {100 * row['strength']:g} % wrong labels"
    figure, panels = figures.new_figure(2, len(places[0]), width=9.5, height=3.4, title=title)
    for line, chosen, words in zip(panels, places, ("largest sigma", "smallest sigma")):
        for panel, place in zip(line, chosen):
            with Image.open(paths[place]) as picture:
                panel.imshow(np.array(picture.convert("RGB")))
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(words)
    return figure
