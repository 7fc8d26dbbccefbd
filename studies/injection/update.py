"""The two sides of eq. 2 on a real network before training, strength by strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nvrm_fast.probe import NoiseInjection, local_hessian_trace, update_sides
from studies import tables
from studies.injection.problems import LOSSES, Problem


def measure(
    model: nn.Module, problem: Problem, loss: str, sigmas: Sequence[float], *, lr: float, batch_size: int, seed: int
) -> dict[str, Any]:
    """<Tr H>, and by strength what the second order leaves out of W_NI's update and which of its two terms is larger.

    Args:
        model: at its start; layer "0" gets the node for as long as this takes.
        problem, loss: the data and a key of LOSSES; the first batch_size training examples are the batch.
        sigmas: noise strengths.
        lr: eta.
        seed: of W_NI and of the noise.
    """
    inputs, targets = (part[:batch_size] for part in problem.train)
    function = LOSSES[loss][0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        injection = NoiseInjection(model, "0", 1.0)
    found = []
    with injection:
        trace, error = local_hessian_trace(model, injection, function, inputs, targets, samples=30)
        for sigma in sigmas:
            injection.sigma = sigma
            eps = injection.draw(len(inputs), seed=seed)
            sides = update_sides(model, injection, function, inputs, targets, eps, lr)
            values = {
                "measured": float(sides.measured.norm()),
                "predicted": float((sides.gradient_term + sides.hessian_term).norm()),
                "left_out": float(sides.residual),
                "hessian_share": float(sides.hessian_share),
            }
            found.append({"sigma": sigma} | {k: v if math.isfinite(v) else None for k, v in values.items()})
    return {"trace": float(trace), "trace_error": float(error), "sides": found}


def describe(found: dict[str, Any]) -> str:
    """One row a strength."""

    def words(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    lines = [
        [
            f"{one['sigma']:.4g}",
            words(one["measured"], "{:.3g}"),
            words(one["predicted"], "{:.3g}"),
            words(one["left_out"] and 100 * one["left_out"], "{:.2g} %"),
            words(one["hessian_share"], "{:.2g}"),
        ]
        for one in found["sides"]
    ]
    header = ["sigma", "step of W_NI, measured", "eq. 2 on this batch", "left out", "Hessian term / gradient term"]
    return f"<Tr H> = {found['trace']:.3g} ± {found['trace_error']:.1g}\n\n{tables.markdown(header, lines)}"
