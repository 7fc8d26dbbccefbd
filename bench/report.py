"""`python -m bench.report`: every operator against what one would use instead, in one report with tables and plots.

Each part is measured side by side in one run, after its own gate: nothing is timed that does not compute what it
should. Parts named by --parts are measured anew; the others stay as the output's JSON file has them, where that is of
the same machine and software.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import layer_table, markdown, noise_table, scaling, step_table, stochastic_table
from .gate import RedGate, check_all
from .machine import DEFAULT_THREADS, machine_facts

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "cpu.md"
FEWEST_ROUNDS = 5

STEPS = """\
"Bytes to move" is what one pass over all that the algorithm keeps must read and write; GB/s is that over the time. "of
copy_" compares with a large copy in the same rounds, its read and written bytes counted; it can exceed 100 %, because a
copy makes the processor fetch the lines that it overwrites, which is not counted, and a step overwrites what it has
read. "Extra" is measured, beyond the state that the plain rule keeps: "state" by walking the optimizer's state, "peak"
at the peak of the resident set in a fresh process (temporaries and state)."""

NOISE = """\
A fill of a tensor that exists, against torch's own generators, which run on one thread however many there are."""

SCALING = """\
A place of a curve is measured side by side too; a time is of as many runs as take a millisecond together."""

LAYERS = """\
Forward and backward of one layer, the gradient for its input included. "Kept" is what forward keeps for backward beyond
parameters and input; "peak" by how much both raise the resident set of a fresh process over parameters and input,
gradients (about 4 MB for the dense weight) included."""

STOCHASTIC = """\
Forward and backward (gradients for input, weight and bias) of a dense stochastic layer with ReLU and the sample-wise
max-entropy regularizer (equation 6). The first row is the product alone: one nn.Linear with twice as many outputs, no
noise, no activation, no regularizer. The composite is what one writes in plain torch: two nn.Linear, softplus,
randn_like, ReLU, log. "mean" is the deployed layer, forward only, against a plain nn.Linear. Kept: the products are
what is kept; no noise is."""


class Part(NamedTuple):
    """title, explanation: of its section. gate: raises RedGate or says what it found. measure(rounds, threads): tables
    as plain data. section: a table as Markdown. plot: the picture that shows it, of plots.py."""

    title: str
    explanation: str
    gate: Callable[[], str]
    measure: Callable[[int, int], list[dict[str, Any]]]
    section: Callable[[dict[str, Any]], str]
    rounds: int
    plot: str | None = None


PARTS: dict[str, Part] = {
    "steps": Part("Steps", STEPS, check_all, step_table.measure, markdown.step_section, 17, "steps"),
    "scaling": Part("Scaling", SCALING, check_all, scaling.measure, markdown.curve_section, 11, "scaling"),
    "noise": Part("The noise alone", NOISE, check_all, noise_table.measure, markdown.noise_section, 17),
    "layers": Part(
        "Noisy layers", LAYERS, layer_table.check_layers, layer_table.measure, markdown.layer_section, 31, "layers"
    ),
    "stochastic": Part(
        "Stochastic layers", STOCHASTIC, stochastic_table.check_kernels, stochastic_table.measure,
        markdown.stochastic_section, 61,
    ),
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"of: {', '.join(PARTS)} (default: all); empty: write the report again"
    )
    parser.add_argument("--rounds", type=int, help=f"rounds of every table, at least {FEWEST_ROUNDS} (by part)")
    parser.add_argument("--threads", type=int, default=DEFAULT_THREADS, help="threads that torch uses")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="Markdown; JSON and PNG go beside it")
    options = parser.parse_args(arguments)
    options.parts = [name.strip() for name in options.parts.split(",") if name.strip()]
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"--parts must be of {', '.join(PARTS)}; got {', '.join(unknown)}")
    if options.rounds is not None and options.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds must be at least {FEWEST_ROUNDS}, got {options.rounds}: medians of fewer mean little")
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.output.suffix == ".json":
        parser.error("--output names the Markdown file; the JSON file gets its name with .json")
    return options


def kept_parts(path: Path, facts: dict[str, str], anew: list[str]) -> dict[str, Any]:
    """Parts of an earlier report that are not measured anew. Exits where they are of another machine or software."""
    if not path.exists() or set(anew) == set(PARTS):
        return {}
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if earlier.get("machine") != facts:
        sys.exit(f"{path.name} is of another machine or other software: measure all parts, or give another --output")
    return {name: part for name, part in earlier["parts"].items() if name not in anew}


def measure_part(name: str, rounds: int | None, threads: int) -> dict[str, Any]:
    """One part as plain data, after its gate. Exits on a red one."""
    part = PARTS[name]
    began = time.monotonic()
    try:
        gate = part.gate()
        rounds = rounds or part.rounds
        tables = part.measure(rounds, threads)
    except RedGate as error:
        sys.exit(f"no figures on a red gate: {error}")
    return {
        "taken": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "took seconds": round(time.monotonic() - began),
        "gate": gate,
        "rounds": rounds,
        "tables": tables,
    }


def part_text(name: str, measured: dict[str, Any], pictures: dict[str, str]) -> str:
    """The section of one part."""
    part, gate = PARTS[name], measured["gate"]
    sections = [
        f"## {part.title}",
        f"{gate[0].upper()}{gate[1:]}. Taken {measured['taken']}: medians of {measured['rounds']} rounds, in each of "
        "which every contestant runs once, in an order shuffled anew; ratios are medians (and quartiles) of the ratios "
        "within a round.",
        part.explanation,
    ]
    if part.plot in pictures:
        sections.append(f"![{part.title}]({pictures[part.plot]})")
    return "\n\n".join([*sections, *map(part.section, measured["tables"])])


def render(everything: dict[str, Any], pictures: dict[str, str]) -> str:
    """The report. pictures: file name of each plot that there is."""
    facts = "\n".join(f"- {key}: {value}" for key, value in everything["machine"].items())
    parts = [part_text(name, everything["parts"][name], pictures) for name in PARTS if name in everything["parts"]]
    return "\n\n".join(["# What it costs on the CPU", facts, *parts])


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    facts = machine_facts()
    json_path = options.output.with_suffix(".json")
    everything: dict[str, Any] = {"machine": facts, "parts": kept_parts(json_path, facts, options.parts)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        everything["parts"][name] = measure_part(name, options.rounds, options.threads)
        print(part_text(name, everything["parts"][name], {}), flush=True)
        json_path.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    pictures = draw(everything, options.output)
    options.output.write_text(render(everything, pictures), encoding="utf-8")
    written = ", ".join([options.output.name, json_path.name, *pictures.values()])
    print(f"{time.monotonic() - began:.0f} s; written: {written}")


def draw(everything: dict[str, Any], output: Path) -> dict[str, str]:
    """The plots beside the report: file name of each that was drawn; none without matplotlib."""
    try:
        from . import plots
    except ImportError as error:
        print(f"no plots: {error}")
        return {}
    return plots.draw(everything["parts"], output)


if __name__ == "__main__":
    main()
