"""What an optimizer does to the model at hand, as a table: how large the noise is, and whether updates survive it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract.arguments import StepArguments
from ..contract.record import SCALE
from ..contract.rules import Rule
from ..ops.step import step_
from .batches import MASTER, PERTURBATION, STEP

#: Standard deviation of each noise type over b.
DEVIATION = {"gaussian": 1.0, "uniform": 3**-0.5, "laplace": 2**0.5, "rademacher": 1.0}

#: From this share of lost updates on master weights are advised.
TO_ADVISE = 0.1


@dataclass(frozen=True)
class ParameterDescription:
    """A row.

    Attributes:
        name: the parameter's, or its position.
        shape: of the whole parameter, also where this process has a shard.
        dtype: of the parameter.
        storage: "in place", or "master weights".
        variability: b of the noise that the next step puts on.
        noise: its type.
        noise_to_weights: standard deviation of that noise over the root mean square of the clean weights; inf where all
            weights are 0.
        lost: share of the updates of the next step, with the present gradient, that are less than half a spacing of
            weight plus noise: rounding loses them. 0 with master weights; None where there is no gradient, and where
            the rule is a wrapped optimizer's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    storage: str
    variability: float
    noise: str
    noise_to_weights: float
    lost: float | None


@dataclass(frozen=True)
class Description:
    """The rows, one a parameter; printed it is a table with advice below."""

    rows: tuple[ParameterDescription, ...]

    @property
    def wants_masters(self) -> tuple[str, ...]:
        """The parameters that lose a tenth of their updates or more."""
        return tuple(row.name for row in self.rows if row.lost is not None and row.lost >= TO_ADVISE)

    def __str__(self) -> str:
        lines = [("parameter", "shape", "dtype", "storage", "b", "noise", "noise / weights", "updates lost")]
        for row in self.rows:
            lost = "-" if row.lost is None else f"{100 * row.lost:.3g} %"
            shape, dtype = "x".join(map(str, row.shape)) or "1", str(row.dtype).removeprefix("torch.")
            b, ratio = f"{row.variability:.4g}", f"{row.noise_to_weights:.3g}"
            lines.append((row.name, shape, dtype, row.storage, b, row.noise, ratio, lost))
        widths = [max(map(len, column)) for column in zip(*lines)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([*table, *self._advice()])

    def _advice(self) -> list[str]:
        if self.wants_masters:
            first, more = self.wants_masters[:3], len(self.wants_masters) - 3
            names = ", ".join(first) + (f" and {more} more" if more > 0 else "")
            return [
                f"Rounding loses updates of {names}: make the optimizer with master_weights=True, which keeps them."
            ]
        if all(row.lost is None for row in self.rows):
            return ["Updates: call describe() between backward() and zero_grad() to see how many rounding loses."]
        return []


def describe_param(
    name: str, param: Tensor, data: Tensor, clean: Tensor, group: dict[str, Any], state: dict[str, Any], *,
    rule: Rule, hyper: list[float], b: float, wants_master: bool, grad: Tensor | None,
) -> ParameterDescription:  # fmt: skip
    """A parameter's row. `data` and `grad` are this process's part, `clean` its weights without noise in float64."""
    deviation = abs(b) * DEVIATION.get(group["noise"], 1.0)
    rms = float(clean.square().mean().sqrt()) if clean.numel() else 0.0
    has_master = MASTER in state or wants_master
    lost: float | None = None
    if rule.code < 0:
        pass  # a wrapped optimizer's own
    elif grad is not None and has_master:
        lost = 0.0
    elif grad is not None and clean.numel():
        update = _update_of(clean, grad, state, rule, hyper).abs()
        _, exponent = torch.frexp(torch.hypot(clean, torch.full_like(clean, deviation)))
        half_spacing = torch.ldexp(torch.full_like(clean, torch.finfo(data.dtype).eps / 2), exponent - 1)
        moved = int((update != 0).sum())
        lost = int(((update < half_spacing) & (update != 0)).sum()) / moved if moved else 0.0
    return ParameterDescription(
        name=name,
        shape=tuple(param.shape),
        dtype=param.dtype,
        storage="master weights" if has_master else "in place",
        variability=abs(b),
        noise=group["noise"],
        noise_to_weights=deviation / rms if rms else math.inf if deviation else 0.0,
        lost=lost,
    )


def _update_of(clean: Tensor, grad: Tensor, state: dict[str, Any], rule: Rule, hyper: list[float]) -> Tensor:
    """By how much the next step would change these clean weights: the rule on copies, in float64, without noise."""
    after = clean.clone()
    states = [
        torch.zeros_like(clean) if state.get(key) is None else state[key].detach().to(clean).clone()
        for key in rule.states
    ]
    step = state.get(STEP, torch.zeros((), dtype=torch.int64, device=clean.device))
    words = state[PERTURBATION].clone().to(clean.device)
    words[SCALE] = 0
    step_(
        StepArguments(
            rule=rule.code, params=[after], grads=[grad.to(clean)], states=states, masters=[],
            steps=[torch.as_tensor(step, device=clean.device).to(torch.int64).clone()], records=[words], hyper=hyper,
            offsets=[0], scale=0.0, seed=0, distribution=0, keep_noise=False, scale_tensors=[],
        )
    )  # fmt: skip
    return after - clean
