"""What the reference refuses, before anything is written; csrc/torch/tensor_table_builder.cpp says the same."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import AdamStep, SgdStep, Step
from .distribution import BY_CODE

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


def check_code(code: int, name: str, known: dict = BY_CODE) -> None:
    if code not in known:
        raise ValueError(f"{name} must be a code in [0, {len(known)}), got {code}")


def check_stream(stream: int) -> None:
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream must be in [0, 2^32), got {stream}")


def check_fill(self: Tensor, stream: int, distribution: int, offset: int) -> None:
    """What `fill_noise_` refuses. Raises ValueError or TypeError that names the argument."""
    if self.dtype != torch.float32:
        raise TypeError(f"self must be float32, got {self.dtype}")
    if not self.is_contiguous():
        raise ValueError("self must be contiguous")
    if offset < 0:
        raise ValueError(f"offset must not be negative, got {offset}")
    check_stream(stream)
    check_code(distribution, "distribution")


def check_scalar(scalar: Tensor | None, device: torch.device, name: str) -> None:
    """grad_scale and found_inf of torch.amp.GradScaler, or None."""
    if scalar is not None and (scalar.dtype != torch.float32 or scalar.numel() != 1 or scalar.device != device):
        raise ValueError(f"{name} must be None or a float32 tensor with one element on {device}")


def check_runs(a: Step) -> None:
    """Runs: where a parameter is a shard that lies in pieces in its full tensor."""
    if not a.run_lengths and not a.run_strides:
        return
    check_length(len(a.run_lengths), len(a.params), "run_lengths")
    check_length(len(a.run_strides), len(a.params), "run_strides")
    for i, (param, length, stride) in enumerate(zip(a.params, a.run_lengths, a.run_strides)):
        if length == 0:
            continue
        if length < 0 or stride < length or param.numel() % length != 0:
            raise ValueError(
                f"run_lengths[{i}] must be 0 or divide the parameter's {param.numel()} elements, and run_strides[{i}] "
                f"be at least as long; got {length} and {stride}"
            )
        tensors = [param, a.grads[i], *(x[i] for x in a.states.values()), *(a.masters[i : i + 1])]
        if not all(x.is_contiguous() for x in tensors):
            raise ValueError(f"params[{i}] is a shard in runs: it, its gradient and its state must be contiguous()")


def check_step(a: Step) -> None:
    """Raises ValueError or TypeError that names the argument and its position."""
    n = len(a.params)
    for name in ("grads", "steps", "streams", "offsets", "scales", "coat_scales"):
        check_length(len(getattr(a, name)), n, name)
    for name, values in a.states.items():
        check_length(len(values), n, name)
    if isinstance(a, SgdStep):
        check_length(len(a.is_first), n, "is_first")
    if isinstance(a, AdamStep):
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(a, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(a, name)}")
    if a.masters and len(a.masters) != n:
        raise ValueError("masters must be empty or hold one tensor for each of params")
    check_code(a.distribution, "distribution")
    check_code(a.coat_distribution, "coat_distribution")
    if n == 0:
        return
    dtype = a.params[0].dtype
    if dtype not in DTYPES:
        raise TypeError(f"params[0] must be float32, float64, bfloat16 or float16, got {dtype}")
    math = torch.float64 if dtype == torch.float64 else torch.float32
    for i, param in enumerate(a.params):
        if param.device != a.params[0].device:
            raise ValueError(f"params[{i}] must be on {a.params[0].device} like params[0], got {param.device}")
        check_tensor(param, param, dtype, f"params[{i}]", written=True)
        check_tensor(a.grads[i], param, dtype, f"grads[{i}]", written=False)
        if a.masters:
            check_tensor(a.masters[i], param, math, f"masters[{i}]", written=True)
        for name, tensors in a.states.items():
            check_tensor(tensors[i], param, math if a.masters else dtype, f"{name}[{i}]", written=True)
        if a.steps[i].dtype != torch.int64 or a.steps[i].numel() != 1:
            raise TypeError(f"steps[{i}] must be an int64 tensor with one element")
    for i, offset in enumerate(a.offsets):
        if offset < 0:
            raise ValueError(f"offsets[{i}] must not be negative, got {offset}")
    for stream in a.streams:
        check_stream(stream)
    check_scalar(a.grad_scale, a.params[0].device, "grad_scale")
    check_scalar(a.found_inf, a.params[0].device, "found_inf")
    check_runs(a)
