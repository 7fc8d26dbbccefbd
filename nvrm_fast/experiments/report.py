"""What every study leaves behind: tables in Markdown and a JSON with everything."""

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
from tqdm import tqdm

import nvrm_fast
from nvrm_fast.experiments import StudyError


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
