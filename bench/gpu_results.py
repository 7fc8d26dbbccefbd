"""Where the figures of a GPU go: every row at once into bench/results/<gpu>.json, and as tables into the .md beside it.

    python -m bench.gpu_results stage RESULTS.json NAME STATUS SECONDS     what a stage of on_gpu.sh came to

No torch in here. A run that is cut off leaves all the rows that it measured; a row that is measured again takes the
place of the earlier one. Tests label rows and never hide them.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

from .markdown import table

#: Kernels and the stage of on_gpu.sh that tests them.
TESTS = {"native": "native tests", "triton": "Triton tests", "layers": "layer tests"}
GREEN = "passed"

NOTES = {
    "steps": "ms: median over the rounds of the GPU's time, by CUDA events. ratio: to torch's fused step. Bytes to "
    "move: what one pass over all that the algorithm keeps reads and writes; GB/s: those bytes over the time; of copy: "
    "as a share of a large copy_ in the same run. Host ms: what a call costs the host. Extra state: bytes an element "
    "that the optimizer keeps beyond the plain rule; extra peak: memory that a step takes while it runs.",
    "graphs": "A step captured in a CUDA graph: GPU time of a replay, and what a replay costs the host.",
    "memory": "Of a training run's parameters, gradients and optimizer, in bytes an element of the parameters: what is "
    "allocated between steps, and the peak within one.",
    "layers": "Forward and backward of one layer, the gradient for its input included.",
}
COLUMNS = {
    "steps": ("ms", "fastest to slowest", "ratio", "bytes to move", "GB/s", "of copy", "host ms", "extra state, B",
              "extra peak, bytes"),
    "graphs": ("ms", "fastest to slowest", "ratio", "host ms"),
    "memory": ("kept, B", "peak, B"),
    "layers": ("ms", "fastest to slowest", "ratio"),
}  # fmt: skip


class Results:
    """One GPU's file. start() begins a run: facts that all rows measured from then on share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {"runs": [], "rows": []}
        if path.exists():
            self.data = json.loads(path.read_text(encoding="utf-8"))

    def start(self, facts: dict[str, str], copy: float) -> None:
        """A new run. copy: bytes a second that a large copy_ reads and writes in it."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        self.data["runs"].append({"taken": now, "facts": facts, "copy": copy, "stages": {}})
        self.write()

    @property
    def copy(self) -> float:
        """Of the run that is going on."""
        return self.data["runs"][-1]["copy"]

    def stage(self, name: str, status: str, seconds: int) -> None:
        """What a stage of on_gpu.sh came to."""
        if not self.data["runs"]:
            sys.exit(f"{self.path.name} has no run yet: python -m bench.gpu_report facts comes first")
        self.data["runs"][-1]["stages"][name] = {"status": status, "seconds": seconds}
        self.write()

    def add(
        self, part: str, title: str, contestant: str, tested_by: str | None, figures: dict[str, Any],
        is_baseline: bool = False,
    ) -> None:  # fmt: skip
        """One row, written at once. tested_by: a key of TESTS, or None for others' code. is_baseline: the ratios of the
        table are taken against it. "failed" in place of figures says why there are none."""
        row = {
            "part": part, "title": title, "contestant": contestant, "tested by": tested_by, "baseline": is_baseline,
            "run": len(self.data["runs"]) - 1, **figures,
        }  # fmt: skip
        key = lambda row: (row["part"], row["title"], row["contestant"])  # noqa: E731
        rows = self.data["rows"]
        places = [i for i, other in enumerate(rows) if key(other) == key(row)]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)
        self.write()
        print(f"  {title}: {contestant}: {describe(row)}", flush=True)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in (
            (self.path, json.dumps(self.data, indent=1) + "\n"),
            (self.path.with_suffix(".md"), render(self.data)),
        ):
            # A run that is cut off here leaves the whole old file.
            new = path.with_name(path.name + ".new")
            new.write_text(text, encoding="utf-8")
            os.replace(new, path)


def describe(row: dict[str, Any]) -> str:
    if "failed" in row:
        return str(row["failed"])
    return ", ".join(f"{value} {column}" for column, value in cells(row).items() if value and column != "ratio")


def label(data: dict[str, Any], row: dict[str, Any]) -> str:
    """What is to be said beside a row's name: nothing where the tests of its kernels passed in its run."""
    if row["tested by"] is None:
        return ""
    stage = data["runs"][row["run"]]["stages"].get(TESTS[row["tested by"]])
    if stage is None:
        return " (not tested in this run)"
    return "" if stage["status"] == GREEN else f" (its tests: {stage['status']})"


def cells(row: dict[str, Any], first: float | None = None) -> dict[str, str]:
    """The figures of a row as text, by column."""

    def text(key: str, factor: float = 1, digits: int = 3) -> str:
        return "" if row.get(key) is None else f"{factor * row[key]:.{digits}f}"

    def count(key: str) -> str:
        return "" if row.get(key) is None else f"{row[key]:_}".replace("_", " ")

    spread = f"{1e3 * row['fastest']:.3f} to {1e3 * row['slowest']:.3f}" if "fastest" in row else ""
    all_columns = {
        "ms": text("seconds", 1e3),
        "fastest to slowest": spread,
        "ratio": "" if not first or "seconds" not in row else f"{row['seconds'] / first:.3f}",
        "bytes to move": count("bytes to move"),
        "GB/s": text("bytes a second", 1e-9, 0),
        "of copy": "" if row.get("of copy") is None else f"{100 * row['of copy']:.0f} %",
        "host ms": text("host seconds", 1e3),
        "extra state, B": text("extra state", 1, 2),
        "extra peak, bytes": count("extra peak"),
        "kept, B": text("kept", 1, 2),
        "peak, B": text("peak", 1, 2),
    }
    return {column: all_columns[column] for column in COLUMNS[row["part"]]}


def render(data: dict[str, Any]) -> str:
    """The report: facts of each run, then a table for each part and title, rows in the order of their measurement."""
    text = [f"# Steps and layers on {data['runs'][-1]['facts']['GPU'] if data['runs'] else 'no GPU yet'}"]
    for number, run in enumerate(data["runs"]):
        facts = "\n".join(f"- {name}: {value}" for name, value in run["facts"].items())
        stages = "\n".join(f"- {name}: {s['status']} ({s['seconds']} s)" for name, s in run["stages"].items())
        copy = f"- copy_ of a large tensor: {1e-9 * run['copy']:.0f} GB/s, read and written bytes counted"
        text.append(f"Run {number + 1}, {run['taken']}:\n\n{facts}\n{copy}\n{stages}".rstrip())
    for part, columns in COLUMNS.items():
        rows = [row for row in data["rows"] if row["part"] == part]
        if rows:
            text.append(f"## {part.capitalize()}\n\n{NOTES[part]}")
        for title in dict.fromkeys(row["title"] for row in rows):
            lines = []
            own = [row for row in rows if row["title"] == title]
            first = next((row.get("seconds") for row in own if row["baseline"]), None)
            for row in own:
                run = f" [run {row['run'] + 1}]" if len(data["runs"]) > 1 else ""
                name = row["contestant"] + label(data, row) + run
                if "failed" in row:
                    lines.append([name, row["failed"], *[""] * (len(columns) - 1)])
                else:
                    lines.append([name, *cells(row, first).values()])
            text.append(f"### {title}\n\n{table(['contestant', *columns], lines)}")
    return "\n\n".join(text) + "\n"


def main(arguments: list[str]) -> None:
    if len(arguments) != 5 or arguments[0] != "stage":
        sys.exit(__doc__)
    _, path, name, status, seconds = arguments
    Results(Path(path)).stage(name, status, int(seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
