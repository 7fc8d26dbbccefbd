"""The report's tables as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # noqa: E402

OURS, THEIRS, PLAIN = "#1b6ca8", "#c96f3b", "#7f7f7f"
#: Tables of the steps that are drawn: the float32 ones.
DRAWN = "float32"


def color(name: str) -> str:
    """Ours, what one would use instead, or what is free of noise."""
    if name.startswith(("torch.optim", "plain, torch", "weight-normalized", "nn.Linear", "copy_")):
        return PLAIN
    others = ("published", "reference", "IVON", "bayesian-torch", "torch-uncertainty", "eager", "torch.compile")
    return THEIRS if name.startswith(others) or "composite" in name else OURS


def plain_numbers(axis: Axis, steps: tuple[float, ...]) -> None:
    """1, 2, 5, 10 ... (or fewer) written out, on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def dots(axes: Axes, table: dict[str, Any], title: str) -> None:
    """Ratios of one table, quartiles as whiskers, on a logarithmic axis, where a bar's length means nothing."""
    rows = table["rows"][::-1]
    middle = [row["ratio"]["median"] for row in rows]
    spread = [
        [m - row["ratio"]["low"] for m, row in zip(middle, rows)],
        [row["ratio"]["high"] - m for m, row in zip(middle, rows)],
    ]
    names = [row["contestant"] for row in rows]
    for i, (value, name) in enumerate(zip(middle, names)):
        whisker = [[side[i]] for side in spread]
        axes.errorbar(value, i, xerr=whisker, fmt="o", markersize=5, color=color(name), ecolor="black", elinewidth=0.8)
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_xscale("log")
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axvline(1, color="black", linewidth=0.8)
    top = max(row["ratio"]["high"] for row in rows)
    axes.set_xlim(min(0.7, *middle), top * (2.2 if top > 8 else 1.6))
    plain_numbers(axes.xaxis, (1, 2, 5) if top > 8 else (1, 1.5, 2, 3, 5))
    for i, (value, row) in enumerate(zip(middle, rows)):
        place = (row["ratio"]["high"], i)
        axes.annotate(f"{value:.2f}", place, (6, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_title(title.split(" (")[0], fontsize=8)
    axes.set_xlabel("time, relative to the first row", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)


def figure_of_dots(tables: list[dict[str, Any]], path: Path) -> None:
    """One below the other, so that a phone shows them, too."""
    heights = [1.0 + 0.22 * len(table["rows"]) for table in tables]
    figure, axes = pyplot.subplots(
        len(tables), 1, figsize=(6.4, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for table, place in zip(tables, axes.flat):
        dots(place, table, table["title"])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def curve(axes: Axes, table: dict[str, Any]) -> None:
    """Medians with quartiles as a band, both axes logarithmic."""
    unit = 1e9 if table["unit"].startswith("ns") else 1e3
    for number, name in enumerate(dict.fromkeys(row["contestant"] for row in table["rows"])):
        rows = [row for row in table["rows"] if row["contestant"] == name]
        places = [row["at"] for row in rows]
        low, middle, high = ([unit * row["value"][q] for row in rows] for q in ("low", "median", "high"))
        style = {PLAIN: "--", THEIRS: ":", OURS: "-"}[color(name)]
        label = name.replace("the thesis's composite in eager torch", "composite")
        axes.plot(places, middle, style, marker="o", markersize=3, color=f"C{number}", label=label)
        axes.fill_between(places, low, high, color=f"C{number}", alpha=0.2)
    axes.set_xscale("log", base=2 if table["axis"] in ("threads", "batch", "width") else 10)
    if table["axis"] == "threads":
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")
        plain_numbers(axes.yaxis, (1, 2, 5))
    if table["axis"] in ("threads", "batch", "width"):
        places = list(dict.fromkeys(row["at"] for row in table["rows"]))
        axes.set_xticks(places, [str(place) for place in places])
    axes.set_xlabel(table["axis"], fontsize=8)
    axes.set_ylabel(table["unit"], fontsize=8)
    axes.set_title(table["title"], fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=6)


def figure_of_curves(tables: list[dict[str, Any]], path: Path) -> None:
    figure, axes = pyplot.subplots(
        len(tables), 1, figsize=(6.4, 3.3 * len(tables)), squeeze=False, layout="constrained"
    )
    for table, place in zip(tables, axes.flat):
        curve(place, table)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw(parts: dict[str, Any], output: Path) -> dict[str, str]:
    """Plots of the parts that are there, beside `output`; file name of each."""
    paths = {name: output.with_name(f"{output.stem}_{name}.png") for name in ("steps", "scaling", "layers")}
    drawn = {}
    if "steps" in parts:
        figure_of_dots([t for t in parts["steps"]["tables"] if DRAWN in t["title"]], paths["steps"])
        drawn["steps"] = paths["steps"].name
    if "scaling" in parts:
        figure_of_curves(parts["scaling"]["tables"], paths["scaling"])
        drawn["scaling"] = paths["scaling"].name
    tables = [table for name in ("layers", "stochastic") if name in parts for table in parts[name]["tables"]]
    if tables:
        figure_of_dots(tables, paths["layers"])
        drawn["layers"] = paths["layers"].name
    return drawn
