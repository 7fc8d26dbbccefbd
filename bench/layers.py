"""`python -m bench.layers`: noisy layers side by side with plain, eager and outside ones, as Markdown and JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from .contention import describe, is_busy
from .gate import RedGate
from .layer_contestants import CASES
from .layer_table import check_layers, measure_layers
from .machine import DEFAULT_THREADS, machine_facts
from .markdown import ratio, table
from .report import FEWEST_ROUNDS

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "layers_cpu.md"

EXPLANATION = """\
Forward and backward of one layer, the gradient for its input included. Every contestant runs once a round, in an order
shuffled anew; times are medians over {rounds} rounds, ratios medians (and quartiles) of the ratios within a round.
"Kept" is what forward keeps for backward beyond parameters and input; "peak" by how much both raise the resident set of
a fresh process over parameters and input, gradients (about 4 MB for the dense weight) included."""


def section(measured: dict[str, Any]) -> str:
    busy = is_busy(measured["waiting"])
    header = ["contestant", "ms", "to weight-normalised (quartiles)", "composite over it", "kept, MB", "peak, MB"]
    rows = [
        [
            row["contestant"],
            f"{1e3 * row['median']:.2f}",
            ratio(row["ratio"], busy),
            "" if row["ratio to the composite"] is None else ratio(row["ratio to the composite"], busy),
            f"{1e-6 * row['kept bytes']:.1f}",
            f"{1e-6 * row['peak bytes']:.1f}",
        ]
        for row in measured["rows"]
    ]
    note = "" if "processor time" in measured["title"] else f"\n\n{describe(measured['waiting'])}"
    return f"## {measured['title']}\n\n{table(header, rows)}{note}\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31, help=f"rounds of each table, at least {FEWEST_ROUNDS}")
    parser.add_argument("--threads", type=int, default=DEFAULT_THREADS, help="threads that torch uses")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="Markdown file; JSON goes beside it")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count processor time of one thread: for machines that others use too",
    )
    options = parser.parse_args(arguments)
    if options.processor_time:
        options.threads = 1
    if options.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds must be at least {FEWEST_ROUNDS}, got {options.rounds}: medians of fewer mean little")
    torch.set_num_threads(options.threads)
    try:
        gate = check_layers()
    except RedGate as error:
        sys.exit(f"no figures on a red gate: {error}")
    facts = machine_facts()
    sections = [
        "# Noisy layers on the CPU\n\n" + "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        f"{gate[0].upper()}{gate[1:]}.",
        EXPLANATION.format(rounds=options.rounds),
    ]
    tables = []
    for name in CASES:
        tables.append(measure_layers(name, options.rounds, options.threads, options.processor_time))
        sections.append(section(tables[-1]))
        print(sections[-1], flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n\n".join(sections), encoding="utf-8")
    everything = {"machine": facts, "gate": gate, "rounds": options.rounds, "tables": tables}
    options.output.with_suffix(".json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
