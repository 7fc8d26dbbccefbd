"""`noise`: draw any stretch of any stream."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .contract.distributions import distribution_code
from .contract.seeds import check_integer, signed_seed
from .ops.step import fill_noise_


def noise(
    numel: int,
    *,
    seed: int,
    stream: int = 0,
    step: int = 0,
    distribution: str = "gaussian",
    scale: float = 1.0,
    offset: int = 0,
    device: torch.device | str = "cpu",
    backend: str | None = None,
) -> Tensor:
    """Elements offset .. offset + numel of a noise stream: the same bits on every device, in every backend.

    Args:
        numel: how many elements.
        seed: 64 bits, in [0, 2^64).
        stream: which tensor draws, in [0, 2^32).
        step: which draw of that tensor, in [0, 2^32).
        distribution: "gaussian" (N(0, scale^2)), "uniform" (on (-scale, scale)), "laplace" (Laplace(0, scale)) or
            "rademacher" (scale or -scale, as often): scale is the paper's b for each noise type, not always the
            standard deviation.
        scale: b; multiplied last.
        offset: index of the first element, so that a stretch equals the slice of a longer draw.
        device: where the result lives.
        backend: "reference", "native" or "triton"; by default the fastest for the device.

    Returns:
        float32 tensor of shape (numel,).

    Raises:
        TypeError, ValueError: an argument out of its range, named.
        RuntimeError: the backend asked for cannot serve the device; says why.

    Source: Philox4x32-7 (Salmon et al., SC 2011); noise types of Xie et al. 2021, section 4 (6) and appendix C.1;
    Rademacher noise of anti-PGD, Orvieto et al. 2022 (arXiv 2202.02831).
    """
    check_integer(numel, 62, "numel")
    check_integer(stream, 32, "stream")
    check_integer(step, 32, "step")
    check_integer(offset, 62, "offset")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    code = distribution_code(distribution)
    key = signed_seed(seed)
    out = torch.empty(numel, dtype=torch.float32, device=device)
    fill_noise_(out, key, stream, step, code, float(scale), offset, backend=backend)
    return out
