"""Table 4 of the SE-SNN paper from the runs of the study, and what lies behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvrm_fast.experiments.report import markdown_table, mean_and_deviation, percent, plus_minus

_SCORES = {"mAP": "mAP", "rank1": "rank 1", "rank5": "rank 5", "rank10": "rank 10"}
PAPER = (
    "the paper, Market-1501, mAP at 10, 20 and 50 %: baseline 25.87, 23.49, 20.74; SE-SNN 27.30, 24.72, 21.32; right "
    "labels: 67.66 and 70.20"
)


def strengths(runs: Sequence[dict[str, Any]]) -> list[float]:
    """In their order."""
    return sorted({run["strength"] for run in runs})


def names(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The methods in their order."""
    return list(dict.fromkeys(run["method"] for run in runs))


def of(runs: Sequence[dict[str, Any]], method: str, strength: float) -> list[dict[str, Any]]:
    """The runs of all seeds."""
    return [run for run in runs if (run["method"], run["strength"]) == (method, strength)]


def gains(runs: Sequence[dict[str, Any]], method: str, strength: float, than: str) -> list[float]:
    """mAP minus that of another method at the same seed, for each seed that has both."""
    other = {run["seed"]: run["mAP"] for run in of(runs, than, strength)}
    return [run["mAP"] - other[run["seed"]] for run in of(runs, method, strength) if run["seed"] in other]


def describe(runs: Sequence[dict[str, Any]]) -> str:
    """One table a strength as in Table 4, then sigma of right and wrong labels, as Markdown."""
    first = names(runs)[0]
    seeds = len({run["seed"] for run in runs})
    parts = [
        f"Retrieval in percent, mean ± standard deviation over {seeds} seeds ({PAPER}). gain: mAP minus that of "
        f"{first} at the same seed. memorized: wrong labels that the network predicts as given."
    ]
    for strength in strengths(runs):
        rows = []
        for method in names(runs):
            mine = of(runs, method, strength)
            if mine:
                rows.append(
                    [
                        method,
                        *(percent([run[score] for run in mine]) for score in _SCORES),
                        percent(gains(runs, method, strength, first)),
                        percent([run["train"] for run in mine]),
                        percent([run["memorized"] for run in mine]),
                        f"{mean_and_deviation([run['seconds'] for run in mine])[0]:.1f}",
                    ]
                )
        header = ["method", *_SCORES.values(), "gain", "training labels", "memorized", "seconds, stage 2"]
        parts.append(f"{100 * strength:g} % wrong labels:\n\n" + markdown_table(header, rows))
    sizes = sorted({(run["weights"], run["trained"]) for run in runs})
    parts.append("Weights, of which trained in stage 2: " + "; ".join(f"{all:,}, {part:,}" for all, part in sizes))
    stochastic = [run for run in runs if "sigma" in run]
    if stochastic:
        parts.append(_sigma(stochastic))
    return "\n\n".join(parts)


def _sigma(runs: Sequence[dict[str, Any]]) -> str:
    groups = [group for group in ("right", "wrong", "good", "poor") if group in runs[0]["sigma"]]
    rows = []
    for method in names(runs):
        for strength in strengths(runs):
            mine = of(runs, method, strength)
            values = {group: [run["sigma"][group] for run in mine] for group in groups}
            cells = ["-" if None in values[group] else plus_minus(values[group], 3) for group in groups]
            rows.append([method, f"{100 * strength:g} %", *cells, _ratio(values, "wrong", "right"),
                         _ratio(values, "poor", "good")])  # fmt: skip
    header = ["method", "wrong labels", *groups, "wrong / right", "poor / good"]
    return (
        "Mean sigma of the last unit over training pictures with right labels and with wrong ones; and over good and "
        "poor views with right labels, where these are known:\n\n" + markdown_table(header, rows)
    )


def _ratio(values: dict[str, list[float | None]], over: str, under: str) -> str:
    if None in values.get(over, [None]) or None in values.get(under, [None]):
        return "-"
    return plus_minus([a / b for a, b in zip(values[over], values[under])], 3)
