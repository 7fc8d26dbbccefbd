"""Rows of results as tables in Markdown, with intervals and paired differences from scipy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy import stats

Row = dict[str, Any]
Value = str | Callable[[Row], Any]  # of a row: by its name, or worked out
Column = Callable[[list[Row]], str]  # makes a cell's text of the rows of a line


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in [header, ["-" * width for width in widths], *lines]
    )


def groups(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows by their values of these names, in the order in which they come."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def select(rows: Sequence[Row], **where: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def values(rows: Sequence[Row], of: Value) -> list[Any]:
    """A value of each row."""
    return [row[of] if isinstance(of, str) else of(row) for row in rows]


def table(rows: Sequence[Row], by: Sequence[str], columns: Mapping[str, str | Column]) -> str:
    """A line for each group of rows that differ in their seeds only.

    Args:
        rows: of a study.
        by: names whose values tell the groups apart.
        columns: by their headings a name of ``by``, or what makes the cell's text of the group.
    """
    lines = [
        [word(group[0][cell]) if isinstance(cell, str) else cell(group) for cell in columns.values()]
        for group in groups(rows, *by).values()
    ]
    return markdown(list(columns), lines)


def word(value: Any) -> str:
    """A value of a cell: ``0.05``, ``-`` for None or 0, and text as it is."""
    return "-" if value in (None, 0.0) else f"{value:g}" if isinstance(value, float) else str(value)


def first(form: str) -> Column:
    """A column that says what all rows of a line share, such as ``{network}``, ``{b:g}``."""
    return lambda rows: form.format(**rows[0])


def words(of: Callable[[Row], str]) -> Column:
    """The same, worked out of one of them."""
    return lambda rows: of(rows[0])


def shares(of: Value, digits: int = 1) -> Column:
    """A column of ``percent``."""
    return lambda rows: percent(values(rows, of), digits)


def means(of: Value, digits: int) -> Column:
    """A column of ``plus_minus``; ``-`` where a value is None."""
    return lambda rows: "-" if None in (known := values(rows, of)) else plus_minus(known, digits)


def above(of: Value, base: Sequence[Row], at_same: Sequence[str] = (), itself: str = "-") -> Column:
    """A column of ``paired``: a value against that of the ``base`` rows which have the same values of these names;
    for a line that is of the base itself, or has none, ``itself``."""
    bases = groups(base, *at_same)

    def cell(rows: list[Row]) -> str:
        mine = bases.get(tuple(rows[0][name] for name in at_same), rows)
        return itself if rows[0] in mine else paired(values(rows, of), values(mine, of))

    return cell


def plus_minus(values: Sequence[float], digits: int) -> str:
    """``61.2 ± 0.8``: mean and standard deviation over seeds (0 for a single one), so many digits after the point."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def percent(fractions: Sequence[float | None], digits: int = 1) -> str:
    """``plus_minus`` of fractions in percent; ``-`` where one is missing."""
    known = [100 * value for value in fractions if value is not None]
    return plus_minus(known, digits) if len(known) == len(fractions) else "-"


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's confidence interval of the mean (scipy.stats.ttest_1samp); two values or more."""
    return tuple(map(float, stats.ttest_1samp(values, 0.0).confidence_interval(confidence)))


def paired(values: Sequence[float], baseline: Sequence[float], digits: int = 1) -> str:
    """``+1.2 [+0.8, +1.6]``: mean of the differences in percent at the same seeds and its 95 % interval by Student's t;
    ``-`` for one seed, which has no interval.

    values, baseline: fractions, in the same order of seeds.
    """
    if len(values) < 2:
        return "-"
    differences = [100 * (value - base) for value, base in zip(values, baseline, strict=True)]
    low, high = interval(differences)
    return f"{statistics.fmean(differences):+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
