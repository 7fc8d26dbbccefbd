"""`python -m bench.report`: the roofline tables, side by side in one run, as Markdown and JSON.

Nothing is timed unless every kernel that would be equals the reference bit for bit (gate.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from . import markdown
from .contestants import RULES
from .gate import RedGate, check_all
from .machine import DEFAULT_THREADS, machine_facts
from .noise_table import measure_noise
from .parameter_lists import PARAMETER_LISTS, RESNET34
from .step_table import measure_steps

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "cpu.md"
FEWEST_ROUNDS = 15

EXPLANATION = """\
Every contestant runs once a round, in an order shuffled anew; times are medians over {rounds} rounds, and ratios are
medians (and quartiles) of the ratios within a round. "Bytes to move" is what one pass over all that the algorithm keeps
must read and write; GB/s is that over the time. "of copy_" compares with a large copy in the same rounds, its read and
written bytes counted; it can exceed 100 %, because a copy makes the processor fetch the lines that it overwrites, which
is not counted, and a step overwrites what it has read. "Extra" is measured, beyond the state that the plain rule keeps:
"state" by walking the optimizer's state, "peak" at the peak of the resident set in a fresh process (temporaries and
state)."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help=f"rounds of each table, at least {FEWEST_ROUNDS}")
    parser.add_argument("--threads", type=int, default=DEFAULT_THREADS, help="threads that torch uses")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="Markdown file; JSON goes beside it")
    options = parser.parse_args(arguments)
    if options.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds must be at least {FEWEST_ROUNDS}, got {options.rounds}: medians of fewer mean little")
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.output.suffix == ".json":
        parser.error("--output names the Markdown file; the JSON file gets its name with .json")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    try:
        gate = check_all()
    except RedGate as error:
        sys.exit(f"no figures on a red gate: {error}")
    facts = machine_facts()
    header = [
        "# NVRM steps on the CPU",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        f"{gate[0].upper()}{gate[1:]}.",
        EXPLANATION.format(rounds=options.rounds),
    ]
    sections = ["\n\n".join(header) + "\n"]
    print(sections[0], flush=True)

    tables: list[dict[str, Any]] = []

    def add(measured: dict[str, Any], text: str) -> None:
        tables.append(measured)
        sections.append(text)
        print(text, flush=True)

    cases = [(rule, list_name, torch.float32) for list_name in PARAMETER_LISTS for rule in RULES]
    cases += [(rule, RESNET34, torch.bfloat16) for rule in RULES]
    for rule, list_name, dtype in cases:
        measured = measure_steps(rule, list_name, dtype, options.rounds, options.threads)
        add(measured, markdown.step_section(measured))
    measured = measure_noise(options.rounds)
    add(measured, markdown.noise_section(measured))

    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n".join(sections), encoding="utf-8")
    everything = {"machine": facts, "gate": gate, "rounds": options.rounds, "tables": tables}
    json_path = options.output.with_suffix(".json")
    json_path.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - began:.0f} s; written: {options.output.name} and {json_path.name}")


if __name__ == "__main__":
    main()
