"""`python -m bench.compare A B`: two reports held against each other, row by row, against the noise of their rounds.

Rows are compared by their ratio to the first row of their table, taken within rounds, because a machine's speed differs
from run to run by more than a kernel's does; first rows themselves by their times. A difference counts where the
quartile intervals do not overlap and the medians are at least 3 % apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .markdown import table

LEAST = 0.03
SAME, FASTER, SLOWER = "same", "faster", "slower"


class Row(NamedTuple):
    """A figure with its quartiles; of ratios to the table's first row, or of seconds."""

    kind: str
    low: float
    median: float
    high: float


def rows(report: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Row]]:
    """Every row of a report, under part, table and contestant."""
    for part, measured in report["parts"].items():
        for found in measured["tables"]:
            for row in found["rows"]:
                place = f", {row['at']} {found['axis']}" if "at" in row else ""
                ratio = row["ratio"]
                is_first = ratio["low"] == ratio["high"] == 1
                yield (
                    (part, found["title"] + place, row["contestant"]),
                    Row("seconds", **row["seconds"]) if is_first else Row("ratio", **ratio),
                )


def judge(a: Row, b: Row) -> str:
    """What b is, compared with a."""
    if b.high < a.low and b.median < a.median * (1 - LEAST):
        return FASTER
    if b.low > a.high and b.median > a.median * (1 + LEAST):
        return SLOWER
    return SAME


def _shown(row: Row) -> str:
    unit, name = (1e3, " ms") if row.kind == "seconds" else (1, "")
    return f"{unit * row.median:.3g}{name} ({unit * row.low:.3g} to {unit * row.high:.3g})"


def compare(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, list[str]]:
    """The comparison as text, and the judgements of rows that both have."""
    first, second = dict(rows(a)), dict(rows(b))
    lines, judgements = [], []
    for key, mine in first.items():
        theirs = second.get(key)
        if theirs is None or theirs.kind != mine.kind:
            continue
        judgements.append(judge(mine, theirs))
        what = f"{mine.kind} {theirs.median / mine.median:.3f}"
        lines.append([f"{key[1]}: {key[2]}", _shown(mine), _shown(theirs), what, judgements[-1]])
    notes = [
        f"- {name}: {a['machine'].get(name)} | {b['machine'].get(name)}"
        for name in dict.fromkeys([*a["machine"], *b["machine"]])
        if a["machine"].get(name) != b["machine"].get(name)
    ]
    text = table(["row", "A (quartiles)", "B (quartiles)", "B / A", "B is"], lines)
    counts = ", ".join(f"{judgements.count(name)} {name}" for name in (FASTER, SAME, SLOWER))
    missing = len(first.keys() ^ second.keys())
    sections = ["What differs between the machines or their software:\n\n" + "\n".join(notes)] if notes else []
    sections += [text, f"{counts}; {missing} rows are in one report only."]
    return "\n\n".join(sections), judgements


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("a", type=Path, help="JSON file of a report")
    parser.add_argument("b", type=Path, help="JSON file of another")
    parser.add_argument("--fail-if-slower", action="store_true", help="exit with 1 if a row is slower")
    options = parser.parse_args(arguments)
    text, judgements = compare(*(json.loads(path.read_text(encoding="utf-8")) for path in (options.a, options.b)))
    print(text)
    if options.fail_if_slower and SLOWER in judgements:
        sys.exit(1)


if __name__ == "__main__":
    main()
