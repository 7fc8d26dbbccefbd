"""`probe`: the phase diagram of a model around a noise strength, in one call."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nvrm_fast.contract.seeds import check_integer, check_number

from .layer_derivatives import Loss
from .phase_diagram import PhaseDiagram
from .phases import DIVERGENT
from .scan import Plan, scan


def probe(
    model: nn.Module,
    layer: str,
    sigma: float,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    loss: Loss = nn.functional.cross_entropy,
    factors: tuple[float, float] = (0.01, 100.0),
    networks: int = 13,
    refine: int = 4,
    checkpoint: str | Path | None = None,
    **more: Any,
) -> PhaseDiagram:
    """Train a model at noise strengths around sigma and say in which phase each is.

        diagram = probe(model, "fc1", 1.0, (x, y), (x_test, y_test), lr=0.05, epochs=5)
        print(diagram.describe(1.0))

    Args:
        model: any module that `torch.func.vmap` can run; left as it is.
        layer: name of the layer that gets the node.
        sigma: the strength in the middle.
        train, test: inputs and targets as whole tensors.
        loss: maps outputs and targets to the batch's mean loss.
        factors: the scan goes from factors[0] * sigma to factors[1] * sigma.
        networks: how many strengths, spaced evenly in their logarithm.
        refine: how many more between the last strength that does not diverge and the first that does, where the
            catapult hides: it is often narrower than the scan's spacing.
        checkpoint: as `scan` takes it; the refinement's file has ".refined" at its end.
        more: fields of `Plan` (lr, batch_size, epochs, kind, next_layer, seed, ...) and arguments of `scan`
            (optimizer, at_once, progress, criteria).

    Raises:
        ValueError: for a sigma or factors that are not positive, fewer than two networks, or data with NaN.
        TypeError: for arguments of another kind, such as epochs=1.5. What `scan` raises.
    """
    for name, value in (("sigma", sigma), ("factors[0]", factors[0]), ("factors[1]", factors[1])):
        check_number(value, name)
    for name, count in (("networks", networks), ("refine", refine)):
        check_integer(count, 63, name)
    if not (sigma > 0 and 0 < factors[0] < factors[1]):
        raise ValueError(f"sigma and factors must be positive and factors rise; got {sigma} and {factors}")
    if networks < 2:
        raise ValueError(f"networks must be 2 or more, got {networks}")
    ends = [math.log10(sigma * factor) for factor in factors]
    sigmas = torch.logspace(ends[0], ends[1], networks, dtype=torch.float64).tolist()
    planned = {name: more.pop(name) for name in list(more) if name in Plan.__dataclass_fields__}
    diagram = scan(model, Plan(tuple(sigmas), layer, **planned), loss, train, test, checkpoint=checkpoint, **more)
    edge = next(((before, beyond) for _, after, before, beyond in diagram.boundaries() if after == DIVERGENT), None)
    if refine < 1 or edge is None:
        return diagram
    low, high = (math.log10(sigma) for sigma in edge)
    between = torch.logspace(low, high, refine + 2, dtype=torch.float64)[1:-1].tolist()
    if checkpoint is not None:
        checkpoint = f"{checkpoint}.refined"
    return diagram.joined(
        scan(model, Plan(tuple(between), layer, **planned), loss, train, test, checkpoint=checkpoint, **more)
    )
