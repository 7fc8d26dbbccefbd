"""The tables of the study of attacks, as Markdown. Runs are dictionaries, as the study writes them to its results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nvrm_fast.experiments.report import markdown_table, percent, plus_minus
from nvrm_fast.experiments.stochastic.attacks import training as attack_training

Runs = Sequence[dict[str, Any]]
MODES = ("mean", "sample")


def values(runs: Runs, name: str) -> list[Any]:
    """The different values of a field in the order in which they occur."""
    return list(dict.fromkeys(run[name] for run in runs))


def of(runs: Runs, **where: Any) -> list[dict[str, Any]]:
    """The runs with these values."""
    return [run for run in runs if all(run[name] == value for name, value in where.items())]


def describe(runs: Runs, epsilons: Sequence[float]) -> str:
    """All tables: FGS by epsilon, CW-L2, the closer look, and the networks."""
    seeds = len(values(runs, "seed"))
    parts = [
        f"Test accuracy in percent, mean ± standard deviation over {seeds} seeds. Modes: mean, the layer's means are "
        "passed on; sample, one draw a prediction. The baseline has no noise: both are one.",
        f"Untargeted FGS with expected gradients, by epsilon:\n\n{_curves(runs, epsilons)}",
    ]
    attacked = [run for run in runs if run["cw"]]
    if attacked:
        parts.append(f"Untargeted CW-L2, normal training; L2 is the mean over images found:\n\n{_carlini(attacked)}")
    for training in values(runs, "training"):
        table = _looks(of(runs, training=training))
        parts.append(f"A closer look, {training} training; accuracies in the modes mean / sample:\n\n{table}")
    return "\n\n".join([*parts, f"The networks:\n\n{_networks(runs)}"])


def _groups(runs: Runs) -> Iterable[tuple[str, str, list[dict[str, Any]]]]:
    for training in values(runs, "training"):
        for method in values(runs, "method"):
            mine = of(runs, training=training, method=method)
            if mine:
                yield training, method, mine


def _modes(method: str) -> tuple[str, ...]:
    return MODES[:1] if method == attack_training.BASELINE else MODES


def _curves(runs: Runs, epsilons: Sequence[float]) -> str:
    rows = [
        [training, method, mode]
        + [percent([run["fgs"][place][mode] for run in mine]) for place in range(len(epsilons))]
        for training, method, mine in _groups(runs)
        for mode in _modes(method)
    ]
    return markdown_table(["training", "network", "mode", *(f"{epsilon:g}" for epsilon in epsilons)], rows)


def _carlini(runs: Runs) -> str:
    rows = []
    for _, method, mine in _groups(runs):
        for place, attack in enumerate(row["attack"] for row in mine[0]["cw"]):
            found = [run["cw"][place] for run in mine]
            distances = [row["distance"] for row in found]
            rows.append(
                [
                    method,
                    attack,
                    plus_minus([row["confidence"] for row in found], 1),
                    percent([row["found"] for row in found]),
                    "-" if None in distances else plus_minus(distances, 2),
                    *(percent([row[mode] for row in found]) for mode in MODES),
                ]
            )
    header = ["network", "attack", "confidence", "found", "L2", "accuracy, mean", "accuracy, sample"]
    return markdown_table(header, rows)


def _looks(runs: Runs) -> str:
    methods = values(runs, "method")
    cells: dict[tuple[float, str], dict[str, str]] = {}
    for method in methods:
        mine = of(runs, method=method)
        for place, row in enumerate(mine[0]["looks"]):
            by_mode = [percent([run["looks"][place][mode] for run in mine]) for mode in _modes(method)]
            cells.setdefault((row["epsilon"], row["attack"]), {})[method] = " / ".join(by_mode)
    order = _order(runs)
    rows = [
        [f"{epsilon:g}", attack, *(cells[epsilon, attack].get(method, "-") for method in methods)]
        for epsilon, attack in sorted(cells, key=lambda at: (at[0], order.index(at[1])))
    ]
    return markdown_table(["epsilon", "attack", *methods], rows)


def _order(runs: Runs) -> list[str]:
    """The attacks in the order of the run that has most of them."""
    fullest = max(runs, key=lambda run: len(run["looks"]))
    return list(dict.fromkeys(row["attack"] for row in fullest["looks"]))


def _networks(runs: Runs) -> str:
    rows = []
    for training, method, mine in _groups(runs):
        deviations = [run["log_deviation"] for run in mine]
        rows.append(
            [
                training,
                method,
                f"{mine[0]['weights']:,}",
                "-" if None in deviations else plus_minus(deviations, 2),
                percent([run["zero_gradients"] for run in mine]),
                plus_minus([run["training_seconds"] for run in mine], 1),
                plus_minus([run["seconds"] for run in mine], 1),
            ]
        )
    header = [
        "training", "network", "weights", "mean log sigma", "images without a gradient", "seconds, training",
        "seconds, all",
    ]  # fmt: skip
    return markdown_table(header, rows)
