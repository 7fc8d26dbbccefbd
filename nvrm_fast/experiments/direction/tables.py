"""Tables 1 and 2 in the thesis's layout, with what it left out: the other samplings, the ways, differences in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvrm_fast.experiments import report
from nvrm_fast.experiments.direction.fit import WAYS
from nvrm_fast.experiments.direction.kinds import (
    GAUSS_INPUT,
    GAUSS_WEIGHT,
    PLAIN,
    SAMPLINGS,
    SIGNAL,
    SIGNAL_LAWS,
    WEIGHT_LAWS,
    Strength,
    label,
)

Runs = Sequence[dict[str, Any]]


def _values(runs: Runs, kind: str, size: int, what: str = "ensemble") -> list[float]:
    return [run[what] for run in runs if run["kind"] == kind and run["size"] == size]


def _by_size(runs: Runs, columns: Sequence[str]) -> str:
    columns = [kind for kind in columns if any(run["kind"] == kind for run in runs)]
    sizes = sorted({run["size"] for run in runs})
    rows = [[f"{size}", *(report.percent(_values(runs, kind, size)) for kind in columns)] for size in sizes]
    return report.markdown_table(["training images", *map(label, columns)], rows)


def _ways(runs: Runs, strengths: dict[tuple[str, int], Strength]) -> str:
    rows = []
    for (kind, size), strength in sorted(strengths.items(), key=lambda item: item[0][1]):
        measured = [report.percent(_values(runs, kind, size, way)) for way in (*WAYS, "train")]
        seconds = report.plus_minus(_values(runs, kind, size, "seconds"), 1)
        rows.append([f"{size}", kind, _words(strength), *measured, seconds])
    header = ["training images", "kind", "strength", *WAYS, "ensemble, training images", "training, s"]
    return report.markdown_table(header, rows)


def pairs(runs: Runs) -> list[tuple[str, str]]:
    """Which two kinds are compared seed by seed: local with shared sampling, local with the signal, and so on."""
    there = {run["kind"] for run in runs}
    wished = [(f"{law}@local", f"{law}@{other}") for other in ("shared", "flipout") for law in WEIGHT_LAWS]
    wished += [(f"{law}@{place}", f"{law}@{SIGNAL}") for place in ("local", "shared") for law in WEIGHT_LAWS]
    wished += [(f"{law}@{place}", GAUSS_INPUT) for place in (SIGNAL, "local") for law in (*SIGNAL_LAWS, *WEIGHT_LAWS)]
    wished += [(GAUSS_INPUT, PLAIN)]
    return [pair for pair in dict.fromkeys(wished) if set(pair) <= there]


def _differences(runs: Runs) -> str:
    sizes = sorted({run["size"] for run in runs})
    rows = []
    for first, second in pairs(runs):
        cells = []
        for size in sizes:
            by_seed = [
                100 * (a - b) for a, b in zip(_values(runs, first, size), _values(runs, second, size))
            ]  # in the order of the seeds
            cells.append(report.plus_minus(by_seed, 1))
        rows.append([first, second, *cells])
    return report.markdown_table(["first", "minus", *(f"{size} images" for size in sizes)], rows)


def _by_strength(searched: Runs) -> str:
    """A line a kind and size; cells are strength: accuracy."""
    lines: dict[tuple[int, str], dict[Strength, list[float]]] = {}
    for run in searched:
        found = lines.setdefault((run["size"], run["kind"]), {})
        found.setdefault(tuple(run["strength"]), []).append(run["ensemble"])
    rows = [
        [f"{size}", kind, *(f"{_words(strength)}: {report.percent(values)}" for strength, values in found.items())]
        for (size, kind), found in lines.items()
    ]
    columns = max(map(len, rows), default=2)
    rows = [row + ["-"] * (columns - len(row)) for row in rows]
    return report.markdown_table(["training images", "kind", "mild", "middle", "strong"][:columns], rows)


def _words(strength: Strength) -> str:
    return ", ".join(f"{value:g}" for value in strength) or "-"


def describe(runs: Runs, strengths: dict[tuple[str, int], Strength], searched: Runs) -> str:
    """All tables of the study as Markdown."""
    seeds = len({run["seed"] for run in runs})
    parts = [
        f"Test accuracy of ensembles in percent, mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}.",
        "Table 1, noise on the signal:",
        _by_size(runs, [PLAIN, GAUSS_INPUT, *(f"{law}@{SIGNAL}" for law in SIGNAL_LAWS)]),
    ]
    names = {"shared": "the thesis's sampling", "local": "each object and neuron its own", "flipout": "random signs"}
    for sampling in reversed(SAMPLINGS):
        columns = [f"{law}@{sampling}" for law in WEIGHT_LAWS]
        if any(run["kind"] in columns for run in runs):
            parts.append(f"Table 2, noise on the weights, direction noise {sampling} ({names[sampling]}):")
            parts.append(_by_size(runs, [PLAIN, GAUSS_INPUT, "magn-n@local", columns[0], GAUSS_WEIGHT, *columns[1:]]))
    parts += ["Differences of two kinds at the same seed, in percentage points:", _differences(runs)]
    parts += ["Deterministic network, one random network, ensemble; strengths as the search chose them:"]
    parts += [_ways(runs, strengths)]
    if searched:
        parts += ["The search, by strength: accuracy of ensembles on validation images:", _by_strength(searched)]
    return "\n\n".join(parts)
