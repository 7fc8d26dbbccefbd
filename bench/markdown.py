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


def bytes_an_element(value: float) -> str:
    # Adding 0 turns the -0.0 of a rounded tiny negative value into 0.0.
    return f"{round(value, 2) + 0:.2f}"


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
    return f"## {measured['title']}\n\n{text}\n\n{copied} {describe(measured['waiting'])}\n"
