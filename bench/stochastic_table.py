"""The tables of stochastic layers: StochasticLinear against one nn.Linear of doubled width and plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from nvrm_fast.contract.layers import SUMS, StochasticSettings
from nvrm_fast.reference import stochastic

from .contention import waiting_share
from .gate import RedGate
from .layer_table import kept_bytes
from .machine import benchmarked_instruction_sets, instruction_set_restored, use_instruction_set
from .measure import Entrant, paired_ratio, quartiles, round_robin

#: Objects, inputs, outputs.
SHAPES = ((128, 784, 128), (128, 1024, 1024), (512, 512, 512))
MARGIN = 4.0
DOUBLED, PLAIN, EAGER, COMPILED = "nn.Linear, doubled width", "nn.Linear", "eager composite", "torch.compile of it"
OURS, MEAN = "StochasticLinear", "StochasticLinear, mean"


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
    """What was found equal. Raises RedGate at the first difference."""
    compared = 0
    with instruction_set_restored():
        for name in benchmarked_instruction_sets():
            use_instruction_set(name)
            for sums in SUMS.values():
                z, grad, key = torch.randn(37, 258, 1), torch.randn(37, 129, 1), torch.tensor([5])
                settings = StochasticSettings(1, 0, 77, 1, sums, MARGIN)
                y, total = torch.ops.nvrm_fast.stochastic_activation(z, key, *settings)
                dz = torch.ops.nvrm_fast.stochastic_activation_backward(grad, total, z, key, *settings)
                expected = stochastic.stochastic_activation(z, key, *settings)[0]
                expected_dz = stochastic.stochastic_activation_backward(grad, total, z, key, *settings)
                if not (torch.equal(y, expected) and torch.equal(dz, expected_dz)):
                    raise RedGate(f"stochastic layers on {name} differ from the reference, sums {sums}")
                compared += 2
    return f"gate green: {compared} results of the stochastic layers' kernels equal the reference's, bit for bit"


def entrants(examples: int, inputs: int, outputs: int) -> tuple[dict[str, Entrant], dict[str, int]]:
    """Everybody, on one input, and the bytes that each keeps for backward beyond parameters and input."""
    torch.manual_seed(0)
    x = torch.randn(examples, inputs, requires_grad=True)
    grad, doubled_grad, one = torch.randn(examples, outputs), torch.randn(examples, 2 * outputs), torch.ones(())
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
    kept = {DOUBLED: kept_bytes(doubled, x), EAGER: kept_bytes(eager, x)}
    for name in benchmarked_instruction_sets():
        prepare = lambda name=name: (forget(), use_instruction_set(name))  # noqa: E731
        found[f"{OURS}, {name}"] = Entrant(prepare, partial(both, ours))
        kept[f"{OURS}, {name}"] = kept_bytes(layer, x)
        noisy.regularizer_loss(layer)
    found[EAGER] = Entrant(forget, partial(both, partial(eager, x)))
    found[COMPILED] = Entrant(forget, partial(both, partial(compiled, x)))
    found[PLAIN] = Entrant(forget, partial(quietly, plain))
    found[MEAN] = Entrant(forget, partial(quietly, deployed))
    return found, kept


def measure(rounds: int, threads: int) -> list[dict[str, Any]]:
    return [measure_shape(shape, rounds) for shape in SHAPES]


def measure_shape(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """One shape's table as plain data; every time of every round is kept."""
    with instruction_set_restored():
        found, kept = entrants(*shape)
        seconds, waiting = round_robin(found, rounds)
    rows = []
    for name, mine in seconds.items():
        base = PLAIN if name in (PLAIN, MEAN) else DOUBLED
        rows.append(
            {
                "contestant": name,
                "against": base,
                "seconds": quartiles(mine)._asdict(),
                "ratio": paired_ratio(mine, seconds[base])._asdict(),
                "kept bytes": kept.get(name),
                "all seconds": mine,
            }
        )
    examples, inputs, outputs = shape
    title = f"{examples} examples, {inputs} inputs, {outputs} outputs, float32"
    return {"title": title, "waiting": waiting_share(waiting), "rows": rows}
