"""Noise itself for layers and probes: shaped like a tensor, or picked element by element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference import activation
from ..reference.noise import noise_at as _reference_noise_at
from . import registry
from .by_way_of_cpu import to_cpu
from .operator import define
from .transforms import apart, transformed


def _fake_gaussian_like(like: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(like, dtype=torch.float32, memory_format=torch.contiguous_format)


define(
    "gaussian_like",
    "Tensor like, Tensor key, int stream, int step, int offset",
    "Tensor",
    reference=activation.gaussian_like,
    fake=_fake_gaussian_like,
    native=("cpu",),
    triton="direction_noise",
)
registry.register_kernel("noise_at", "reference", registry.EVERY_DEVICE, _reference_noise_at)


def gaussian_like(
    like: Tensor, key: Tensor, stream: int = 0, step: int = 0, offset: int = 0, *, backend: str | None = None
) -> Tensor:
    """N(0, 1), float32, of like's shape, row-major in the layout of parameter noise; no gradient flows through it.

    key: int64 with one element, on like's device. backend: by default the fastest that has a kernel for the device.
    """
    if torch.compiler.is_compiling():
        return torch.ops.nvrm_fast.gaussian_like(like.detach(), key, stream, step, offset, backend=backend)
    if transformed():
        like = apart(like.shape, like)
    elif like.requires_grad:
        like = like.detach()
    return registry.kernel("gaussian_like", like.device, backend)(like, key, stream, step, offset)


def noise_at(index: Tensor, key: Tensor, stream: int, step: int, distribution: int) -> Tensor:
    """Unit-scale noise at the elements `index` of one stream, float32 of index's shape.

    index: int64, any shape, on any device; not negative. key: int64 of shape (2,) on the same device, the low and the
    high 32 bits of the seed. distribution: a code. Plain torch on every device and whatever `use_backend` says, so that
    `torch.func` and torch.compile transform it.
    """
    drawn = _reference_noise_at(to_cpu(index), to_cpu(key), stream, step, distribution)
    return drawn.to(index.device)
