"""The two sides of eq. 2 on a real network before training, strength by strength."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nvrm_fast.experiments import report
from nvrm_fast.experiments.injection.problems import LOSSES, Problem
from nvrm_fast.probe import NoiseInjection, local_hessian_trace, update_sides


def update_table(
    model: nn.Module, problem: Problem, loss: str, sigmas: Sequence[float], *, lr: float, batch_size: int, seed: int
) -> str:
    """One row a strength: what the second order leaves out of W_NI's update, and which of its two terms is larger.

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
    rows = []
    with injection:
        trace, error = local_hessian_trace(model, injection, function, inputs, targets, samples=30)
        for sigma in sigmas:
            injection.sigma = sigma
            eps = injection.draw(len(inputs), seed=seed)
            sides = update_sides(model, injection, function, inputs, targets, eps, lr)
            predicted = sides.gradient_term + sides.hessian_term
            rows.append(
                [
                    f"{sigma:.4g}",
                    f"{float(sides.measured.norm()):.3g}",
                    f"{float(predicted.norm()):.3g}",
                    f"{100 * sides.residual:.2g} %",
                    f"{sides.hessian_share:.2g}",
                ]
            )
    header = ["sigma", "step of W_NI, measured", "eq. 2 on this batch", "left out", "Hessian term / gradient term"]
    return f"<Tr H> = {trace:.3g} ± {error:.1g}\n\n" + report.markdown_table(header, rows)
