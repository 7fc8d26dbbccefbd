"""What optimizers refuse, before anything is written, in words that name the parameter and the remedy.

What is valid is said in nvrm_fast/contract/checks.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..contract import record
from ..contract.checks import DTYPES, record_fault, tensor_fault
from ..contract.rules import Rule
from ..contract.seeds import check_integer
from .batches import MASTER, PERTURBATION, ParamRef
from .capture import is_capturing
from .shards import local_gradient, local_tensor

#: Noise is float32: a scale beyond it would be infinite, and the weights NaN. Exclusive.
FLOAT32_LIMIT = 2.0**128


def check_number(value: Any, name: str, *, low: float = 0.0, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value < high (which NaN and infinities never are), in torch.optim's words.
    TypeError for what is no number.

    A tensor on another device than the CPU is not looked at: the host would have to wait for it.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            what = "lr" if name == "learning rate" else name
            raise ValueError(f"Tensor {what} must be 1-element; its shape is {tuple(value.shape)}")
        if value.device.type != "cpu":
            return
    elif isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        what = "lr" if name == "learning rate" else name
        raise TypeError(f"{what} must be a number or a tensor with one element, got {value!r}")
    if not low <= float(value) < high:
        limits = f"in [{low:g}, {high:g})" if high < math.inf else f"finite and at least {low:g}"
        colon = ":" if name.startswith(("learning rate", "beta parameter")) else " value:"
        raise ValueError(f"Invalid {name}{colon} {value}; it must be {limits}")


def check_flag(value: Any, name: str) -> None:
    """Raises TypeError unless value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_pair(value: Any, name: str) -> None:
    """Raises TypeError unless value holds two numbers."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be two numbers, got {value!r}")


def check_denoise_every(value: Any) -> None:
    """Raises ValueError unless value is None or an integer of at least 1."""
    if value is not None and (check_integer(value, 62, "denoise_every") < 1):
        raise ValueError(f"denoise_every must be None or at least 1, got {value}")


def check_param(param: Tensor, name: object) -> None:
    """Raises TypeError for a dtype and ValueError for a layout or placement that no kernel serves."""
    if getattr(param, "_fsdp_flattened", False) or getattr(param, "_is_flat_param", False):
        raise ValueError(
            f"parameter {name} belongs to FullyShardedDataParallel (FSDP1), whose shards do not tell where they lie in "
            "their weights, so that all of them would carry the same noise: use fully_shard (FSDP2)"
        )
    if param.layout != torch.strided:
        raise ValueError(f"parameter {name} is sparse ({param.layout}): keep parameters dense")
    if not torch.nn.parameter.is_lazy(param) and param.is_neg():
        raise ValueError(
            f"parameter {name} is the negative of other memory (is_neg()), where kernels would write the wrong sign: "
            "make it of x.resolve_neg()"
        )
    if param.dtype not in DTYPES:
        raise TypeError(
            f"parameter {name} is {param.dtype}; supported are float32, float64, bfloat16 and float16 (leave it out of "
            "the optimizer, or store it as a real tensor)"
        )


def check_step_of(ref: ParamRef, data: Tensor, grad: Tensor, state: dict[str, Any], rule: Rule) -> None:
    """Raises the error that tells what is wrong with a parameter, its gradient or its state; nothing is written."""
    param, name = ref.param, ref.name
    grad = local_gradient(param, grad, name)
    fault = tensor_fault(grad, data, data.dtype, written=False)
    if fault == "layout":
        raise RuntimeError(
            f"parameter {name} has a sparse gradient, which is not supported: use sparse=False in its embedding"
        )
    if fault == "dtype" or data.dtype not in DTYPES:
        raise TypeError(
            f"parameter {name} is {data.dtype} with a {grad.dtype} gradient; both must be the same: float32, float64, "
            "bfloat16 or float16"
        )
    if fault is not None:
        raise ValueError(
            f"parameter {name} has shape {list(data.shape)} on {data.device} and its gradient {list(grad.shape)} on "
            f"{grad.device}: call zero_grad(set_to_none=True) after changing a parameter"
        )
    if data.is_neg():
        raise ValueError(
            f"parameter {name} has data that are the negative of other memory (is_neg()): assign x.resolve_neg()"
        )
    if tensor_fault(data, data, data.dtype, written=True) == "overlap":
        raise ValueError(
            f"parameter {name} has elements that share memory (an expanded tensor): clone() it before training"
        )
    for key in (*rule.states, MASTER):
        value = state.get(key)
        if isinstance(value, Tensor) and tensor_fault(value, param, value.dtype, written=True) is not None:
            raise ValueError(
                f"parameter {name} has shape {list(param.shape)} on {param.device}, but its {key} "
                f"{list(value.shape)} on {value.device}: call optimizer.reset_state() before a parameter gets other "
                "data"
            )
    words = state.get(PERTURBATION)
    if words is not None:
        check_record(ref, words)


def check_record(ref: ParamRef, words: Any) -> None:
    """Raises ValueError for a record that is none, or whose noise was put on a parameter of another size."""
    param, name = ref.param, ref.name
    if not isinstance(words, Tensor) or record_fault(words, local_tensor(param).device) is not None:
        what = f"{list(words.shape)} on {words.device}" if isinstance(words, Tensor) else repr(words)
        raise ValueError(
            f"parameter {name} has shape {list(param.shape)} on {param.device}, but its {PERTURBATION} {what} is no "
            f"record of {record.WORDS} int64 words there: load a state that is complete, or move the model before the "
            "optimizer is made"
        )
    if words.device.type == "cuda" and is_capturing():
        return  # nothing can be read now
    carried = record.unpack(words.tolist())
    if carried.scale != 0 and carried.numel != param.numel():
        raise ValueError(
            f"parameter {name} has {param.numel()} elements, but the noise that it is to take off has "
            f"{carried.numel}: put other data into a parameter after optimizer.denoise()"
        )


def check_overlap(named: Iterable[tuple[object, Tensor]]) -> None:
    """Raises ValueError for two parameters that share memory: they would carry two draws of noise at once."""
    spans = []
    for name, param in named:
        if torch.nn.parameter.is_lazy(param):  # it has no data yet, and will have its own
            continue
        tensor = local_tensor(param)
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
