"""Tables as Markdown that also lines up as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .contention import describe, is_busy


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(line(cells) for cells in [header, rule, *rows])


def ratio(quartiles: dict[str, float], busy: bool) -> str:
    if quartiles["low"] == quartiles["high"] == 1:
        return "1"
    if busy:
        return "busy machine"
    return f"{quartiles['median']:.2f} ({quartiles['low']:.2f} to {quartiles['high']:.2f})"


def bytes_an_element(value: float | None) -> str:
    if value is None:
        return "unknown"
    # Adding 0 turns the -0.0 of a rounded tiny negative value into 0.0.
    return f"{round(value, 2) + 0:.2f}"


def layer_section(measured: dict[str, Any]) -> str:
    busy = is_busy(measured["waiting"])
    header = ["contestant", "ms", "to weight-normalized (quartiles)", "composite over it", "kept, MB", "peak, MB"]
    rows = [
        [
            row["contestant"],
            f"{1e3 * row['seconds']['median']:.2f}",
            ratio(row["ratio"], busy),
            "" if row["ratio to the composite"] is None else ratio(row["ratio to the composite"], busy),
            f"{1e-6 * row['kept bytes']:.1f}",
            "unknown" if row["peak bytes"] is None else f"{1e-6 * row['peak bytes']:.1f}",
        ]
        for row in measured["rows"]
    ]
    return f"### {measured['title']}\n\n{table(header, rows)}\n\n{describe(measured['waiting'])}\n"


def stochastic_section(measured: dict[str, Any]) -> str:
    busy = is_busy(measured["waiting"])
    header = ["contestant", "ms", "ratio (quartiles)", "to", "kept, MB"]
    rows = [
        [
            row["contestant"],
            f"{1e3 * row['seconds']['median']:.3f}",
            ratio(row["ratio"], busy),
            row["against"],
            "" if row["kept bytes"] is None else f"{1e-6 * row['kept bytes']:.2f}",
        ]
        for row in measured["rows"]
    ]
    return f"### {measured['title']}\n\n{table(header, rows)}\n\n{describe(measured['waiting'])}\n"


def curve_section(measured: dict[str, Any]) -> str:
    """A curve's points: a row each, a column for each contestant, medians."""
    names = list(dict.fromkeys(row["contestant"] for row in measured["rows"]))
    unit = 1e9 if measured["unit"].startswith("ns") else 1e3
    points = {(row["at"], row["contestant"]): row["value"]["median"] * unit for row in measured["rows"]}
    rows = [
        [f"{at:_}".replace("_", " "), *(f"{points[at, name]:.3g}" if (at, name) in points else "" for name in names)]
        for at in dict.fromkeys(row["at"] for row in measured["rows"])
    ]
    header = [measured["axis"], *names]
    text = f"### {measured['title']}, {measured['unit']}\n\n{table(header, rows)}\n\n"
    return f"{text}{describe(measured['waiting'])}\n"


def step_section(measured: dict[str, Any]) -> str:
    header = [
        "contestant",
        "ms",
        "ns an element",
        "ratio to the first (quartiles)",
        "bytes to move an element",
        "GB/s",
        "of copy_",
        "extra state, B an element",
        "extra peak, B an element",
    ]
    rows = [
        [
            row["contestant"],
            f"{1e3 * row['seconds']['median']:.2f}",
            f"{row['ns an element']:.3f}",
            ratio(row["ratio"], is_busy(measured["waiting"])),
            str(row["bytes to move an element"]),
            f"{1e-9 * row['bytes a second']:.1f}",
            f"{100 * row['fraction of copy']:.0f} %",
            bytes_an_element(row["extra state bytes an element"]),
            bytes_an_element(row["extra peak bytes an element"]),
        ]
        for row in measured["rows"]
    ]
    return _section(measured, table(header, rows))


def noise_section(measured: dict[str, Any]) -> str:
    header = ["contestant", "ms", "ns an element", "ratio to torch's (quartiles)", "GB/s written"]
    rows = [
        [
            row["contestant"],
            f"{1e3 * row['seconds']['median']:.2f}",
            f"{row['ns an element']:.3f}",
            ratio(row["ratio"], is_busy(measured["waiting"])),
            f"{1e-9 * row['bytes a second']:.1f}",
        ]
        for row in measured["rows"]
    ]
    return _section(measured, table(header, rows))


def _section(measured: dict[str, Any], text: str) -> str:
    bandwidth = f"{1e-9 * measured['copy bytes a second']:.1f} GB/s"
    copied = f"copy_ of 25 000 000 float32 elements in the same rounds: {bandwidth}, read and written bytes counted."
    return f"### {measured['title']}\n\n{text}\n\n{copied} {describe(measured['waiting'])}\n"
