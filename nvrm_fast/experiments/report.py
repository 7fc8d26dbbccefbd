"""What a study leaves behind: tables in Markdown, a JSON with everything, and the figure of both curves."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

import nvrm_fast
from nvrm_fast.experiments import StudyError
from nvrm_fast.experiments.training import NVRM_SGD, SGD, Run

COLORS = {SGD: "#c1440e", NVRM_SGD: "#1f5fa8"}  # told apart with any kind of colour vision, and in grey
_INK, _FAINT = "#333333", "#9a9a9a"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def percent(fractions: Sequence[float | None]) -> str:
    """``61.2 ± 0.8``: fractions over seeds in percent; ``-`` where one is missing."""
    return "-" if None in fractions else plus_minus([100 * value for value in fractions], 1)


def plus_minus(values: Sequence[float], digits: int) -> str:
    """``mean ± deviation`` with so many digits after the point."""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)


def summary_table(runs: Sequence[Run]) -> str:
    """One row an optimizer, mean ± standard deviation over seeds; accuracies and the memorized share in percent."""
    header = [
        "optimizer",
        "test, last epoch",
        "test, best epoch",
        "training, corrupted labels",
        "flipped labels memorized",
        "seconds an epoch",
        "state, bytes a weight",
    ]
    rows = []
    for optimizer in dict.fromkeys(run.optimizer for run in runs):
        mine = [run for run in runs if run.optimizer == optimizer]
        rows.append(
            [
                optimizer,
                percent([run.test_accuracy[-1] for run in mine]),
                percent([max(run.test_accuracy) for run in mine]),
                percent([run.train_accuracy[-1] for run in mine]),
                percent([run.memorized[-1] for run in mine]),
                plus_minus([statistics.fmean(run.seconds) for run in mine], 2),
                plus_minus([run.state_bytes_a_parameter for run in mine], 2),
            ]
        )
    return markdown_table(header, rows)


def versions(device: torch.device | str) -> dict[str, Any]:
    """What the numbers were made with."""
    device = torch.device(device)
    return {
        "nvrm_fast": getattr(nvrm_fast, "__version__", "unknown"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "matplotlib": matplotlib.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
    }


def progress(total: int, unit: str) -> tqdm:
    """A progress bar, silent where the output is not a terminal."""
    return tqdm(total=total, unit=f" {unit}", disable=None, dynamic_ncols=True)


def output_folder(path: str) -> Path:
    """Make the folder of ``--out`` before any work is done.

    Raises:
        StudyError: if it cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StudyError(f"--out {path} cannot be written to ({error.strerror}): name another folder") from None
    return folder


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented JSON; not-a-number is refused, since many readers stumble over it."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def draw_curves(runs: Sequence[Run], path: Path, *, title: str, noise_rate: float, drops: Sequence[int]) -> None:
    """Test accuracy and training accuracy on corrupted labels against epochs, as in the paper's Figure 3.

    Lines are means over seeds, bands one standard deviation. The dashed line is the share of labels that are right:
    a network that learns only those has just this training accuracy.
    """
    figure = Figure(figsize=(9.6, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True)
    epochs = len(runs[0].test_accuracy)
    for panel, measure, heading in (
        (panels[0], "test_accuracy", "Test accuracy"),
        (panels[1], "train_accuracy", "Training accuracy on the corrupted labels"),
    ):
        ends = {}
        for optimizer in dict.fromkeys(run.optimizer for run in runs):
            curves = 100 * np.array([getattr(run, measure) for run in runs if run.optimizer == optimizer])
            mean = curves.mean(0)
            deviation = curves.std(0, ddof=1) if len(curves) > 1 else np.zeros_like(mean)
            x = np.arange(1, epochs + 1)
            panel.fill_between(x, mean - deviation, mean + deviation, color=COLORS[optimizer], alpha=0.18, linewidth=0)
            panel.plot(x, mean, color=COLORS[optimizer], linewidth=2, marker="o" if epochs == 1 else None)
            ends[optimizer] = mean_and_deviation(list(curves[:, -1]))[0]  # rounds as the table does
        _name_lines(panel, ends, epochs)
        _dress(panel, heading, epochs, drops)
    clean = 100 * (1 - noise_rate)
    panels[1].axhline(clean, color=_INK, linestyle="--", linewidth=1.1, zorder=1)
    panels[1].annotate(
        f"share of right labels: {clean:g} %",
        (0.98, clean),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        color=_INK,
        fontsize=9,
        ha="right",
        va="top",
    )
    figure.suptitle(title, fontsize=12, color=_INK)
    figure.savefig(path)


def _name_lines(panel: Any, ends: dict[str, float], epochs: int) -> None:
    """Write each line's name and last value beside its end, moved apart where they would overlap."""
    low, high = panel.get_ylim()
    gap = 0.1 * (high - low)
    places: list[float] = []
    for optimizer, value in sorted(ends.items(), key=lambda item: item[1]):
        places.append(max(value, places[-1] + gap) if places else value)
        panel.annotate(
            f"{optimizer}\n{value:.1f} %",
            (epochs, places[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            color=COLORS[optimizer],
            fontsize=9.5,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _dress(panel: Any, heading: str, epochs: int, drops: Sequence[int]) -> None:
    panel.set_title(heading, fontsize=10.5, loc="left", color=_INK)
    panel.set_xlabel("epoch", color=_INK)
    panel.set_xlim(1 if epochs > 1 else 0, max(epochs, 2))
    panel.yaxis.set_major_formatter("{x:.0f} %")
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(_FAINT)
    panel.tick_params(colors=_INK)
    inside = [drop for drop in drops if drop < epochs]
    for drop in inside:
        panel.axvline(drop + 0.5, color=_FAINT, linestyle=":", linewidth=1, zorder=0)
    if inside:
        panel.annotate(
            "learning rate drops",
            (inside[0] + 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            color=_FAINT,
            fontsize=8,
            va="top",
        )
