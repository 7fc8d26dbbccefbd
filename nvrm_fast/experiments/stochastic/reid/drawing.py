"""Figures 3b (sigma of right and wrong labels) and 3c (the pictures of the largest and the smallest sigma)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from nvrm_fast.experiments.stochastic.reid import tables
from nvrm_fast.experiments.stochastic.reid.methods import METHODS, SE_SNN

_LOOKS = dict(
    zip(METHODS, zip(("#555555", "#e69f00", "#b8860b", "#c1440e", "#7fb2d9", "#1f5fa8", "#117733"), "os^DvPX"))
)
_RIGHT, _WRONG = "#1f5fa8", "#c1440e"


def draw(runs: Sequence[dict[str, Any]], paths: Sequence[Path], folder: Path, *, title: str) -> list[Path]:
    """All figures; sigma and pictures are SE-SNN's, and left out where it has not been run. Returns their paths."""
    written = [_draw_scores(runs, folder / "scores.png", title)]
    of_se_snn = [run for run in runs if run["method"] == SE_SNN]
    if of_se_snn:
        written.append(_draw_pictures(of_se_snn, paths, folder / "pictures.png", title))
    if any(run["strength"] > 0 for run in of_se_snn):
        written.append(_draw_sigma(of_se_snn, folder / "sigma.png", title))
    return written


def _new(size: tuple[float, float], title: str) -> Figure:
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    return figure


def _dress(panel: Any, heading: str) -> None:
    panel.set_title(heading, fontsize=10.5, loc="left")
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_scores(runs: Sequence[dict[str, Any]], path: Path, title: str) -> Path:
    """mAP and rank 1 by strength, a line a method, points the seeds'."""
    figure = _new((10.5, 4.8), f"{title}: retrieval after training on wrong labels")
    shares, methods = tables.strengths(runs), tables.names(runs)
    panels = figure.subplots(1, 2)
    for panel, score, heading in zip(panels, ("mAP", "rank1"), ("Mean average precision", "Rank 1")):
        for number, method in enumerate(methods):
            color, marker = _LOOKS[method]
            there = [share for share in shares if tables.of(runs, method, share)]
            values = [[100 * run[score] for run in tables.of(runs, method, share)] for share in there]
            # Moved a little apart, so that points do not hide each other.
            x = np.array([100 * share for share in there]) + 0.4 * (number - (len(methods) - 1) / 2)
            panel.plot(x, [np.mean(of) for of in values], color=color, marker=marker, markersize=5, label=method)
            for place, own in zip(x, values):
                panel.plot([place] * len(own), own, ".", color=color, alpha=0.4, markersize=4)
        _dress(panel, heading)
        panel.set_xlabel("wrong training labels, %")
        panel.set_xticks([100 * share for share in shares])
        panel.yaxis.set_major_formatter(PercentFormatter(symbol=" %"))
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    figure.savefig(path)
    return path


def _draw_sigma(runs: Sequence[dict[str, Any]], path: Path, title: str) -> Path:
    """Mean sigma of pictures with right and with wrong labels by strength: bars are means, points seeds."""
    figure = _new((6.4, 4.2), f"{title}: sigma of SE-SNN's last unit")
    panel = figure.subplots()
    shares = [share for share in tables.strengths(runs) if share > 0]
    for group, color, shift in (("right", _RIGHT, -0.2), ("wrong", _WRONG, 0.2)):
        for place, share in enumerate(shares):
            values = [run["sigma"][group] for run in tables.of(runs, SE_SNN, share)]
            panel.bar(place + shift, np.mean(values), 0.38, color=color, label=f"{group} labels" if not place else None)
            panel.plot([place + shift] * len(values), values, "o", color="black", markersize=3.5)
    panel.set_xticks(range(len(shares)), [f"{100 * share:g} %" for share in shares])
    panel.set_xlabel("wrong training labels")
    panel.set_ylabel("mean sigma")
    _dress(panel, "Bars: mean over seeds; points: seeds")
    panel.set_ylim(0, 1.15 * panel.get_ylim()[1])
    panel.legend(frameon=False, ncols=2, loc="upper left")
    figure.savefig(path)
    return path


def _draw_pictures(runs: Sequence[dict[str, Any]], paths: Sequence[Path], path: Path, title: str) -> Path:
    """The training pictures of the largest (above) and the smallest sigma at the smallest strength and first seed."""
    run = min(runs, key=lambda run: (run["strength"], run["seed"]))
    figure = _new((9.5, 3.4), f"{title}: sigma of SE-SNN at {100 * run['strength']:g} % wrong labels")
    places = [run["loudest"], run["calmest"]]
    panels = figure.subplots(2, len(places[0]), squeeze=False)
    for row, chosen, words in zip(panels, places, ("largest sigma", "smallest sigma")):
        for panel, place in zip(row, chosen):
            with Image.open(paths[place]) as picture:
                panel.imshow(np.array(picture.convert("RGB")))
            panel.set_xticks([])
            panel.set_yticks([])
        row[0].set_ylabel(words)
    figure.savefig(path)
    return path
