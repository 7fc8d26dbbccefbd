"""Tables 1 and 2 in the thesis's layout, with what it left out: the other samplings, the ways, differences in pairs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from studies import figures, tables
from studies.direction.kinds import (
    GAUSS_INPUT,
    GAUSS_WEIGHT,
    PLACES,
    PLAIN,
    SAMPLINGS,
    SIGNAL,
    SIGNAL_LAWS,
    WEIGHT_LAWS,
    label,
)
from studies.direction.training import WAYS
from studies.study import Report, Row

_SAMPLINGS = {
    "batch": "one plane and angle for the mini-batch",
    "shared": "one plane for the mini-batch",
    "flipout": "random signs",
    "local": "independent per example and neuron",
}


def report(settings: Any, rows: list[Row]) -> Report:
    """All tables of the study, and the figure. Rows of the search have what: "search"."""
    runs, searched = tables.select(rows, what="test"), tables.select(rows, what="search")
    seeds = f"{settings.seeds} seed{'s' * (settings.seeds > 1)}"
    parts = [
        f"Test accuracy of ensembles in percent, mean ± standard deviation over {seeds}.",
        "Table 1, noise on the signal:",
        _by_size(runs, [PLAIN, GAUSS_INPUT, *(f"{law}@{SIGNAL}" for law in SIGNAL_LAWS)]),
    ]
    for sampling in reversed(SAMPLINGS):
        columns = [f"{law}@{sampling}" for law in WEIGHT_LAWS]
        if any(row["kind"] in columns for row in runs):
            parts.append(f"Table 2, noise on the weights, direction noise {sampling} ({_SAMPLINGS[sampling]}):")
            parts.append(_by_size(runs, [PLAIN, GAUSS_INPUT, "magn-n@local", columns[0], GAUSS_WEIGHT, *columns[1:]]))
    parts += ["Differences of two kinds at the same seeds, in percentage points, 95 % interval:", _differences(runs)]
    parts += ["Deterministic network, one random network, ensemble; strengths as the search chose them:", _ways(runs)]
    if searched:
        parts += ["The search, by strength: accuracy of ensembles on validation images:", _by_strength(searched)]
    strengths = {(row["kind"], row["size"]): row["strength"] for row in runs}
    found = [{"kind": kind, "size": size, "strength": strength} for (kind, size), strength in strengths.items()]
    return Report("\n\n".join(parts), {"kinds.png": draw(settings, runs)}, {"strengths": found})


def _values(runs: list[Row], kind: str, size: int, what: str = "ensemble") -> list[float]:
    return [run[what] for run in tables.select(runs, kind=kind, size=size)]


def _by_size(runs: list[Row], columns: Sequence[str]) -> str:
    there = {row["kind"] for row in runs}
    columns = [kind for kind in columns if kind in there]
    lines = [
        [f"{size}", *(tables.percent(_values(runs, kind, size)) for kind in columns)]
        for size in sorted({row["size"] for row in runs})
    ]
    return tables.markdown(["training images", *map(label, columns)], lines)


def _ways(runs: list[Row]) -> str:
    columns = {"training images": "size", "kind": "kind", "strength": lambda mine: _words(mine[0]["strength"])}
    for way, words in (*zip(WAYS, WAYS), ("train", "ensemble, training images")):
        columns[words] = lambda mine, way=way: tables.percent([row[way] for row in mine])
    columns["training, s"] = lambda mine: tables.plus_minus([row["seconds"] for row in mine], 1)
    return tables.table(sorted(runs, key=lambda row: row["size"]), ["size", "kind"], columns)


def pairs(runs: list[Row]) -> list[tuple[str, str]]:
    """Which two kinds are compared seed by seed: local with shared sampling, local with the signal, and so on."""
    there = {run["kind"] for run in runs}
    wished = [(f"{law}@local", f"{law}@{other}") for other in ("batch", "shared", "flipout") for law in WEIGHT_LAWS]
    wished += [(f"{law}@{place}", f"{law}@{SIGNAL}") for place in ("local", "shared", "batch") for law in WEIGHT_LAWS]
    wished += [(f"{law}@{place}", GAUSS_INPUT) for place in (SIGNAL, "local") for law in (*SIGNAL_LAWS, *WEIGHT_LAWS)]
    wished += [(GAUSS_INPUT, PLAIN)]
    return [pair for pair in dict.fromkeys(wished) if set(pair) <= there]


def _differences(runs: list[Row]) -> str:
    sizes = sorted({run["size"] for run in runs})
    lines = [
        [*pair, *(tables.paired(*(_values(runs, kind, size) for kind in pair)) for size in sizes)]
        for pair in pairs(runs)
    ]
    return tables.markdown(["first", "minus", *(f"{size} images" for size in sizes)], lines)


def _by_strength(searched: list[Row]) -> str:
    """A line a kind and size; cells are strength: accuracy."""
    searched = [row | {"strength": tuple(row["strength"])} for row in searched]
    lines = [
        [
            f"{size}",
            kind,
            *(
                f"{_words(strength)}: {tables.percent([row['ensemble'] for row in same])}"
                for (strength,), same in tables.groups(mine, "strength").items()
            ),
        ]
        for (size, kind), mine in tables.groups(searched, "size", "kind").items()
    ]
    return tables.markdown(["training images", "kind", "mild", "middle", "strong"], lines)


def _words(strength: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in strength) or "-"


def _place(kind: str) -> str:
    return kind.split("@")[1] if "@" in kind and not kind.startswith("magn") else "reference"


def _suffix(place: str) -> str:
    """What tells kinds of one name apart."""
    return "" if place == "reference" else f", {place}"


def draw(settings: Any, runs: list[Row]) -> Figure:
    """Test accuracy of the ensembles by kind: a panel a size, a line a kind; points are seeds, bars one deviation."""
    sizes, names = sorted(settings.sizes), list(dict.fromkeys(run["kind"] for run in runs))
    figure, panels = figures.new_figure(
        1, len(sizes), width=2 + 4.2 * len(sizes), height=1.6 + 0.27 * len(names), sharey=True,
        title=f"{settings.data}, fully connected {'-'.join(map(str, settings.hidden))}",
    )  # fmt: skip
    for panel, size in zip(panels[0], sizes):
        for row, kind in enumerate(names):
            color, marker, _ = PLACES[_place(kind)]
            values = [100 * value for value in _values(runs, kind, size)]
            panel.plot(values, [row] * len(values), ".", color=color, alpha=0.35)
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            panel.errorbar(statistics.fmean(values), row, xerr=deviation, color=color, marker=marker, markersize=6)
        figures.name_axes(panel, f"{size} training images", "test accuracy, ensemble", percent=False)
        panel.grid(axis="x")
        panel.xaxis.set_major_formatter("{x:.1f} %")
    first = panels[0, 0]
    first.set_yticks(range(len(names)), [label(name) + _suffix(_place(name)) for name in names])
    first.invert_yaxis()
    for place in dict.fromkeys(map(_place, names)):
        color, marker, words = PLACES[place]
        first.plot([], [], color=color, marker=marker, linestyle="", label=words)
    figures.legend_below(figure, first, columns=2)
    return figure
