"""Mixed random weight perturbation: the gradient of a noisy half-batch and that of a clean one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .momentum_sam import MomentumSAM
from .perturbation import NeuralVariableOptimizer


def mixed_gradient(
    optimizer: NeuralVariableOptimizer | MomentumSAM,
    loss: Callable[[Any], Tensor],
    noisy_batch: Any,
    clean_batch: Any,
    *,
    mix: float = 0.5,
    backward: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """Adds mix * grad loss(noisy_batch) at weights + noise and (1 - mix) * grad loss(clean_batch) at clean weights to
    the parameters' `.grad`: the gradient of m-RWP's mixed risk (Li et al. 2024, arXiv 2404.00357).

        for x, y in batches:
            half = len(x) // 2
            optimizer.zero_grad()
            loss = mixed_gradient(optimizer, loss_of, (x[:half], y[:half]), (x[half:], y[half:]))
            optimizer.step()

    With the halves of one batch a step costs the passes of a plain step and one `denoised()` block. The paper gives
    each gradient a batch of its own (half as many steps an epoch) and noise relative to the norm of each filter. The
    first step has no noise yet. Batch norm sees both halves, the noisy one first.

    Args:
        optimizer: NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion, WeightNoise(...); MomentumSAM(...), whose perturbation then
            takes the noise's place.
        loss: of a batch, a tensor of one element that has a graph; the model is the caller's.
        noisy_batch, clean_batch: what `loss` takes.
        mix: share of the noisy gradient, in [0, 1] (default: 0.5, the paper's lambda); at 0 and at 1 the other
            batch's pass is left out.
        backward: what is done with a loss instead of its backward(), such as `accelerator.backward` or
            `lambda loss: scaler.scale(loss).backward()`.

    Returns the mixed loss, without graph.

    Raises:
        TypeError: an optimizer without `denoised()`; a loss that is no tensor of one element.
        ValueError: mix outside [0, 1].
        RuntimeError: in evaluation mode and in a `denoised()` block, where there is no noise.
    """
    if not isinstance(optimizer, (NeuralVariableOptimizer, MomentumSAM)):
        raise TypeError(
            f"optimizer must be one that perturbs the weights, NVRMSGD or WeightNoise(...), got {type(optimizer)}"
        )
    if isinstance(mix, bool) or not isinstance(mix, (int, float)) or not 0 <= mix <= 1 or math.isnan(mix):
        raise ValueError(f"mix must be in [0, 1], got {mix!r}")
    if optimizer._is_evaluating():
        raise RuntimeError("mixed_gradient() while the noise is off for evaluation: call optimizer.train() first")

    def take(batch: Any, share: float) -> Tensor:
        value = loss(batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TypeError(f"loss must return a tensor of one element, got {type(value).__name__}")
        part = share * value
        part.backward() if backward is None else backward(part)
        return part.detach()

    parts = []
    if mix > 0:
        parts.append(take(noisy_batch, mix))
    if mix < 1:
        with optimizer.denoised():
            parts.append(take(clean_batch, 1 - mix))
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
