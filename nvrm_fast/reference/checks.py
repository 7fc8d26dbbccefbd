"""What the reference refuses, before anything is written. The native table (csrc/optim/table.cpp) says the same."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_length(length: int, expected: int, name: str) -> None:
    if length != expected:
        raise ValueError(f"{name} needs one value for each of params: {expected}, got {length}")


def check_tensor(tensor: Tensor, param: Tensor, dtype: torch.dtype, name: str, written: bool) -> None:
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be dense; sparse gradients are not supported (use sparse=False in the embedding)")
    if tensor.device != param.device:
        raise ValueError(f"{name} must be on {param.device} like params[0], got {tensor.device}")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
    if tensor.shape != param.shape:
        raise ValueError(f"{name} must have the parameter's shape {list(param.shape)}, got {list(tensor.shape)}")
    if written and any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape)):
        raise ValueError(f"{name} has elements that share memory (an expanded tensor): clone() it first")


def check_code(code: int, known: dict, name: str) -> None:
    if code not in known:
        raise ValueError(f"{name} must be a code in [0, {len(known)}), got {code}")


def check_stream(stream: int) -> None:
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream must be in [0, 2^32), got {stream}")


def check_fill(self: Tensor, stream: int, distribution: int, offset: int, known: dict) -> None:
    """What `fill_noise_` refuses. Raises ValueError or TypeError that names the argument."""
    if self.dtype != torch.float32:
        raise TypeError(f"self must be float32, got {self.dtype}")
    if not self.is_contiguous():
        raise ValueError("self must be contiguous")
    if offset < 0:
        raise ValueError(f"offset must not be negative, got {offset}")
    check_stream(stream)
    check_code(distribution, known, "distribution")


def check_step(
    params: list[Tensor], grads: list[Tensor], states: dict[str, list[Tensor]], masters: list[Tensor],
    steps: list[Tensor], **per_parameter: list,
) -> None:  # fmt: skip
    """Raises ValueError or TypeError that names the argument and its position."""
    n = len(params)
    for name, values in {"grads": grads, "steps": steps, **per_parameter, **states}.items():
        check_length(len(values), n, name)
    if masters and len(masters) != n:
        raise ValueError("masters must be empty or hold one tensor for each of params")
    if n == 0:
        return
    dtype = params[0].dtype
    if dtype not in DTYPES:
        raise TypeError(f"params[0] must be float32, float64, bfloat16 or float16, got {dtype}")
    math = torch.float64 if dtype == torch.float64 else torch.float32
    for i, param in enumerate(params):
        if param.device != params[0].device:
            raise ValueError(f"params[{i}] must be on {params[0].device} like params[0], got {param.device}")
        check_tensor(param, param, dtype, f"params[{i}]", written=True)
        check_tensor(grads[i], param, dtype, f"grads[{i}]", written=False)
        if masters:
            check_tensor(masters[i], param, math, f"masters[{i}]", written=True)
        for name, tensors in states.items():
            check_tensor(tensors[i], param, math if masters else dtype, f"{name}[{i}]", written=True)
        if steps[i].dtype != torch.int64 or steps[i].numel() != 1:
            raise TypeError(f"steps[{i}] must be an int64 tensor with one element")
    for i, offset in enumerate(per_parameter["offsets"]):
        if offset < 0:
            raise ValueError(f"offsets[{i}] must not be negative, got {offset}")
    for stream in per_parameter["streams"]:
        check_stream(stream)
