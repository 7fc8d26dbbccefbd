"""The tables: ours by stage as the paper's Tables 1 to 3, the paper's own, what never fired, and the sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvrm_fast.experiments import report
from nvrm_fast.experiments.stochastic.pruning.loop import ACTIVE, END, WHOLE
from nvrm_fast.experiments.stochastic.pruning.options import SE_SNN, PruningSettings

Runs = Sequence[dict[str, Any]]
WITHIN = "within the tolerance"  # not a stage of its own: the smallest point that has hardly more validation error

#: Model size %, multiplications in millions, memory %, error %; None where the paper has none. SE-SNN, Tables 1 to 3.
PAPER = {
    "lenet5": (
        "MNIST",
        {
            "GD": (1.38, 0.250, 32.00, 1.1),
            "GL": (23.69, 0.201, 19.35, 1.0),
            "Sparse VD": (9.29, 0.660, 60.78, 1.0),
            "SBP": (19.66, 0.213, 21.15, 0.9),
            "BC-GNJ": (0.95, 0.283, 35.03, 1.0),
            "BC-GHS": (0.64, 0.153, 22.80, 1.0),
            "L0": (8.92, 1.113, 85.82, 0.9),
            "L0-sep": (1.08, 0.389, 40.36, 1.0),
            "VIBNet": (0.83, 0.094, 15.55, 1.0),
            "SE-SNN": (2.35, 0.061, 11.08, 0.9),
        },
    ),
    "vgg16": (
        "CIFAR-10",
        {
            "BC-GNJ": (6.57, 141.50, 81.68, 8.6),
            "BC-GHS": (5.40, 121.90, 74.82, 9.0),
            "VIBNet": (5.30, 70.63, 49.57, 8.8),
            "SE-SNN": (2.57, 53.61, 49.41, 8.0),
        },
    ),
    "vgg16-convolutional": (
        "CIFAR-100",
        {
            "NS-Single": (24.90, 250.50, None, 26.5),
            "NS-Best": (20.80, 214.80, None, 26.0),
            "VIBNet": (15.08, 203.10, 73.80, 25.9),
            "SE-SNN": (14.93, 181.31, 70.16, 26.2),
        },
    ),
}
#: Appendix B.2: MNIST, 40 % patterned flips; error %.
PAPER_LABELS = "the paper, MNIST, 40 %: baseline 18.96, SE-SNN 4.83, pruned SE-SNN (145-26-15-10) 4.80"
_COLUMNS = ["model size, %", "FLOPs, millions", "memory, %", "error, %"]


def lines(runs: Runs) -> list[tuple[str, float, float]]:
    """(method, weight, margin) of the lines, in the order of the runs."""
    return list(dict.fromkeys((run["method"], run["weight"], run["margin"]) for run in runs))


def of(runs: Runs, line: tuple[str, float, float]) -> list[dict[str, Any]]:
    """The runs of a line, over seeds."""
    return [run for run in runs if (run["method"], run["weight"], run["margin"]) == line]


def name(line: tuple[str, float, float], all_lines: Sequence[tuple[str, float, float]]) -> str:
    """The method; weight and margin too where lines differ in them."""
    method, weight, margin = line
    several = sum(other[0] == method for other in all_lines) > 1
    return f"{method}, weight {weight:g}, b = {margin:.2f}" if several else method


def at(run: dict[str, Any], stage: str, tolerance: float) -> dict[str, Any]:
    """A run's point of a stage; WITHIN: the one of fewest multiplications whose validation error is at most
    `tolerance` above the whole network's, which is one itself."""
    points = run["points"]
    if stage != WITHIN:
        return next(point for point in points if point["stage"] == stage)
    allowed = points[0]["validation_error"] + tolerance
    return min((p for p in points if p["validation_error"] <= allowed), key=lambda p: p["multiplications"])


def describe(runs: Runs, chosen: PruningSettings) -> str:
    """All tables as Markdown."""
    parts = [_stages(runs, chosen)]
    if chosen.network in PAPER:
        where, rows = PAPER[chosen.network]
        text = [
            [method, *("-" if value is None else f"{value:.{n}f}" for value, n in zip(row, (2, 3, 2, 1)))]
            for method, row in rows.items()
        ]
        parts.append(f"The paper's, on {where}:\n\n" + report.markdown_table(["method", *_COLUMNS], text))
    if chosen.noise_rate:
        parts.append(
            f"Error on right labels, {100 * chosen.noise_rate:g} % of the training labels flipped; {PAPER_LABELS}."
        )
    if SE_SNN in chosen.methods and len(chosen.weights) * len(chosen.margins) > 1:
        parts.append(_sweep(runs, chosen))
    parts.append(_inactive(runs))
    return "\n\n".join(parts)


def _stages(runs: Runs, chosen: PruningSettings) -> str:
    rows = []
    all_lines = lines(runs)
    for line in all_lines:
        mine = of(runs, line)
        for stage, words in (
            (WHOLE, "before pruning"),
            (ACTIVE, "inactive neurons removed"),
            (WITHIN, f"validation error within {100 * chosen.tolerance:g} points"),
            (END, "end of the loop, fine-tuned"),
        ):
            points = [at(run, stage, chosen.tolerance) for run in mine]
            first = [run["points"][0] for run in mine]
            rows.append(
                [
                    name(line, all_lines),
                    words,
                    "-".join(map(str, points[0]["widths"])) if len(points[0]["widths"]) < 6 else "",
                    report.plus_minus([100 * p["weights"] / w["weights"] for p, w in zip(points, first)], 2),
                    report.plus_minus([p["multiplications"] / 1e6 for p in points], 3),
                    report.plus_minus([100 * p["memory"] / w["memory"] for p, w in zip(points, first)], 2),
                    report.percent([p["test_error"] for p in points]),
                ]
            )
    seeds = len(of(runs, all_lines[0]))
    return (
        f"{chosen.network} on {chosen.data}, mean ± standard deviation over {seeds} seeds; neurons of seed 0:\n\n"
        + report.markdown_table(["method", "stage", "neurons", *_COLUMNS], rows)
    )


def _inactive(runs: Runs) -> str:
    rows, all_lines = [], lines(runs)
    for line in all_lines:
        mine = of(runs, line)
        shares = [[run["never_firing"][i] / run["neurons"][i] for run in mine] for i in range(len(mine[0]["neurons"]))]
        together = [sum(run["never_firing"]) / sum(run["neurons"]) for run in mine]
        logs = [[run["log_sigma"][key] for run in mine] for key in ("never firing", "firing")]
        rows.append(
            [
                name(line, all_lines),
                ", ".join(report.percent(share) for share in shares) if len(shares) < 6 else "",
                report.percent(together),
                *("-" if None in values else report.plus_minus(values, 2) for values in logs),
                report.percent([run["points"][1]["test_changed"] for run in mine]),
                report.plus_minus([sum(run["seconds"].values()) for run in mine], 0),
            ]
        )
    header = [
        "method", "never fire, % of each layer", "of all", "log sigma, never firing", "log sigma, firing",
        "test classes changed by their removal, %", "seconds",
    ]  # fmt: skip
    return "Neurons that never fire on the training images:\n\n" + report.markdown_table(header, rows)


def _sweep(runs: Runs, chosen: PruningSettings) -> str:
    """Figure B.1 as numbers: multiplications of the smallest network within the tolerance, by weight and margin."""
    rows = []
    for weight in chosen.weights:
        found = [of(runs, (SE_SNN, weight, margin)) for margin in chosen.margins]
        flops = [[at(run, WITHIN, chosen.tolerance)["multiplications"] / 1e6 for run in mine] for mine in found]
        rows.append([f"{weight:g}", *(report.plus_minus(values, 3) for values in flops)])
    return (
        f"SE-SNN, millions of multiplications at a validation error within {100 * chosen.tolerance:g} points:\n\n"
        + report.markdown_table(["weight", *(f"b = {margin:.2f}" for margin in chosen.margins)], rows)
    )
