"""`python -m bench.stochastic_table`: StochasticLinear against one nn.Linear of doubled width and plain torch.

Times are processor time of one thread, not wall time: what other programs do on the machine hardly enters. Nothing is
timed unless every kernel that would be equals the reference bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from nvrm_fast.reference import stochastic
from nvrm_fast.reference.stochastic import SUMS, Settings

from .machine import benchmarked_instruction_sets, instruction_set_restored, machine_facts, use_instruction_set
from .markdown import ratio, table
from .measure import Entrant, paired_ratio, quartiles, round_robin

#: Objects, inputs, outputs.
SHAPES = ((128, 784, 128), (128, 1024, 1024), (512, 512, 512))
MARGIN = 4.0
DOUBLED, PLAIN, EAGER, COMPILED = "nn.Linear, doubled width", "nn.Linear", "eager composite", "torch.compile of it"
DEFAULT_OUTPUT = Path(__file__).parent / "results" / "stochastic.md"

EXPLANATION = """\
Forward and backward (gradients for input, weight and bias) of a dense stochastic layer with ReLU and the sample-wise
max-entropy regularizer (equation 6), float32, one thread. The first row is the product alone: one nn.Linear with twice
as many outputs, no noise, no activation, no regularizer. The composite is what one writes in plain torch: two
nn.Linear, softplus, randn_like, ReLU, log. "mean" is the deployed layer, forward only, against a plain nn.Linear.
Every contestant runs once a round, in an order shuffled anew; medians of processor time over {rounds} rounds, ratios
are medians (and quartiles) within a round."""


class Composite(nn.Module):
    """A stochastic layer in plain torch: activations and the penalty of equation 6."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Linear(inputs, outputs)
        self.raw = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sigma = F.softplus(self.raw(x))
        y = F.relu(self.mean(x) + sigma * torch.randn_like(sigma))
        return y, (MARGIN - sigma.log().mean(1)).clamp_min(0).mean()


def check_kernels() -> str:
    """What was found equal. Raises SystemExit at the first difference."""
    compared = 0
    with instruction_set_restored():
        for name in benchmarked_instruction_sets():
            use_instruction_set(name)
            for sums in SUMS.values():
                z, grad, key = torch.randn(37, 258, 1), torch.randn(37, 129, 1), torch.tensor([5])
                settings = Settings(1, 0, 77, 1, sums, MARGIN)
                y, total = torch.ops.nvrm_fast.stochastic_activation(z, key, *settings)
                dz = torch.ops.nvrm_fast.stochastic_activation_backward(grad, total, z, key, *settings)
                expected = stochastic.stochastic_activation(z, key, *settings)[0]
                expected_dz = stochastic.stochastic_activation_backward(grad, total, z, key, *settings)
                if not (torch.equal(y, expected) and torch.equal(dz, expected_dz)):
                    sys.exit(f"no figures on a red gate: {name} differs from the reference, sums {sums}")
                compared += 2
    return f"Before the measurement {compared} results of the kernels were equal to the reference's, bit for bit"


def entrants(objects: int, inputs: int, outputs: int) -> dict[str, Entrant]:
    """Everybody, on one input."""
    torch.manual_seed(0)
    x = torch.randn(objects, inputs, requires_grad=True)
    grad, doubled_grad, one = torch.randn(objects, outputs), torch.randn(objects, 2 * outputs), torch.ones(())
    doubled, plain = nn.Linear(inputs, 2 * outputs), nn.Linear(inputs, outputs)
    layer = noisy.StochasticLinear(inputs, outputs, activation="relu")
    noisy.set_regularizer(layer, noisy.MaxEntropy("sample", MARGIN))
    deployed = noisy.StochasticLinear(inputs, outputs)
    noisy.set_noise_mode(deployed, "mean")
    eager = Composite(inputs, outputs)
    compiled = torch.compile(Composite(inputs, outputs))

    def product() -> None:
        doubled(x).backward(doubled_grad)

    def both(forward: Callable[[], tuple[Tensor, Tensor]]) -> None:
        torch.autograd.backward(forward(), (grad, one))

    def ours() -> tuple[Tensor, Tensor]:
        return layer(x), noisy.regularizer_loss(layer)

    def quietly(module: nn.Module) -> None:
        with torch.no_grad():
            module(x)

    def forget() -> None:
        x.grad = None
        for module in (doubled, layer, eager, compiled):
            module.zero_grad()

    found = {DOUBLED: Entrant(forget, product)}
    for name in benchmarked_instruction_sets():
        prepare = lambda name=name: (forget(), use_instruction_set(name))  # noqa: E731
        found[f"StochasticLinear, {name}"] = Entrant(prepare, partial(both, ours))
    found[EAGER] = Entrant(forget, partial(both, partial(eager, x)))
    found[COMPILED] = Entrant(forget, partial(both, partial(compiled, x)))
    found[PLAIN] = Entrant(forget, partial(quietly, plain))
    found["StochasticLinear, mean"] = Entrant(forget, partial(quietly, deployed))
    return found


def measure(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """One shape's rows as plain data; every time of every round is kept."""
    with instruction_set_restored():
        seconds, waiting = round_robin(entrants(*shape), rounds, clock=time.process_time_ns)
    rows = []
    for name, mine in seconds.items():
        base = PLAIN if name in (PLAIN, "StochasticLinear, mean") else DOUBLED
        rows.append(
            {
                "contestant": name,
                "against": base,
                "seconds": quartiles(mine)._asdict(),
                "ratio": paired_ratio(mine, seconds[base])._asdict(),
                "all seconds": mine,
            }
        )
    return {"shape": shape, "waiting": waiting, "rows": rows}


def section(measured: dict[str, Any]) -> str:
    """A shape's table in Markdown."""
    objects, inputs, outputs = measured["shape"]
    rows = [
        [row["contestant"], f"{1e3 * row['seconds']['median']:.3f}", ratio(row["ratio"], busy=False), row["against"]]
        for row in measured["rows"]
    ]
    header = ["contestant", "processor ms", "ratio (quartiles)", "to"]
    return f"## {objects} objects, {inputs} inputs, {outputs} outputs\n\n{table(header, rows)}\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stochastic_table", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101, help="rounds of each table (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="Markdown file; JSON goes beside it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    gate = check_kernels()
    facts = machine_facts()
    tables = [measure(shape, options.rounds) for shape in SHAPES]
    text = "\n\n".join(
        [
            "# Stochastic layers on the CPU",
            "\n".join(f"- {key}: {value}" for key, value in facts.items()),
            f"{gate}.",
            EXPLANATION.format(rounds=options.rounds),
            *map(section, tables),
        ]
    )
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    everything = {"machine": facts, "gate": gate, "rounds": options.rounds, "tables": tables}
    options.output.with_suffix(".json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
