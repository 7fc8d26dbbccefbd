"""What optimizers refuse, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..noise import check_integer
from .bucket import Member
from .shards import local

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_number(value: Any, name: str, *, low: float = 0.0, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value < high (which NaN and infinities never are), in torch.optim's words."""
    if isinstance(value, Tensor) and value.numel() != 1:
        what = "lr" if name == "learning rate" else name
        raise ValueError(f"Tensor {what} must be 1-element; its shape is {tuple(value.shape)}")
    if not low <= float(value) < high:
        limits = f"in [{low:g}, {high:g})" if high < math.inf else f"finite and at least {low:g}"
        colon = ":" if name.startswith(("learning rate", "beta parameter")) else " value:"
        raise ValueError(f"Invalid {name}{colon} {value}; it must be {limits}")


def check_denoise_every(value: Any) -> None:
    """Raises ValueError unless value is None or an integer of at least 1."""
    if value is not None and (check_integer(value, 62, "denoise_every") < 1):
        raise ValueError(f"denoise_every must be None or at least 1, got {value}")


def check_param(param: Tensor, name: object) -> None:
    """Raises TypeError for a dtype and ValueError for a layout or placement that no kernel serves."""
    if param.layout != torch.strided:
        raise ValueError(f"parameter {name} is sparse ({param.layout}): keep parameters dense")
    if param.dtype not in DTYPES:
        raise TypeError(
            f"parameter {name} is {param.dtype}; supported are float32, float64, bfloat16 and float16 (leave it out of "
            "the optimizer, or store it as a real tensor)"
        )


def fits(member: Member, state: dict[str, Any] | None) -> bool:
    """Whether `explain` has nothing to say. Runs for every parameter in every step, so it is quick."""
    param, data, grad = member.param, member.data, member.grad
    shape, device = param.shape, param.device
    assert grad is not None  # a step's members have one
    if state:
        for key, value in state.items():
            if isinstance(value, Tensor) and key != "step" and (value.shape != shape or value.device != device):
                return False
        if state.get("coat_numel", param.numel()) != param.numel():
            return False
    return (
        grad.layout == torch.strided
        and data.dtype in DTYPES
        and grad.dtype == data.dtype
        and grad.shape == data.shape
        and grad.device == device
    )


def explain(member: Member, state: dict[str, Any], name: object) -> None:
    """Raises the error that tells what is wrong with a parameter, its gradient or its state."""
    param, data, grad = member.param, member.data, member.grad
    assert grad is not None
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"parameter {name} has a sparse gradient, which is not supported: use sparse=False in its embedding"
        )
    if data.dtype not in DTYPES or grad.dtype != data.dtype:
        raise TypeError(
            f"parameter {name} is {data.dtype} with a {grad.dtype} gradient; both must be the same: float32, float64, "
            "bfloat16 or float16"
        )
    if grad.shape != data.shape or grad.device != data.device:
        raise ValueError(
            f"parameter {name} has shape {list(data.shape)} on {data.device} and its gradient {list(grad.shape)} on "
            f"{grad.device}: call zero_grad(set_to_none=True) after changing a parameter"
        )
    for key, value in state.items():
        if isinstance(value, Tensor) and key != "step":
            if value.shape != param.shape or value.device != param.device:
                raise ValueError(
                    f"parameter {name} has shape {list(param.shape)} on {param.device}, but its {key} "
                    f"{list(value.shape)} on {value.device}: make a new optimizer, or delete optimizer.state[parameter]"
                )
    if state.get("coat_scale") and state.get("coat_numel", param.numel()) != param.numel():
        raise ValueError(
            f"parameter {name} has {param.numel()} elements, but the noise that it is to take off has "
            f"{state['coat_numel']}: put other data into a parameter after optimizer.denoise()"
        )


def check_overlap(named: Iterable[tuple[object, Tensor]]) -> None:
    """Raises ValueError for two parameters that share memory: they would wear two coats at once."""
    spans = []
    for name, param in named:
        tensor = local(param)
        if tensor.numel() == 0 or tensor.device.type == "meta" or tensor.layout != torch.strided:
            continue
        # Tensors with gaps may be interleaved without sharing an element (columns of a matrix): not judged here.
        dense = tensor.numel() == 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride()))
        if dense:
            begin = tensor.data_ptr()
            spans.append((str(tensor.device), begin, begin + tensor.nbytes, name))
    spans.sort(key=lambda span: span[:3])
    for (device, _, end, name), (other_device, begin, _, other) in zip(spans, spans[1:]):
        if device == other_device and begin < end:
            raise ValueError(
                f"parameters {name} and {other} share memory; give the optimizer one parameter for it (tie weights by "
                "using the same Parameter object)"
            )
