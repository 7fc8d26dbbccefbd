"""What the operators that draw noise and change weights accept; csrc/python/tensor_table_builder.cpp says the same.

Reference, Triton and optimizers ask here, so that bad input is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from . import record
from .arguments import Arguments, MeasureArguments, ReperturbArguments, StepArguments
from .cycles import TURNS
from .distributions import DISTRIBUTIONS
from .measures import MEASURES, SUM_WORDS
from .rules import RULES

#: Of parameters.
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which a rule computes on parameters of `dtype`, and which master weights have."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def tensor_fault(tensor: Tensor, like: Tensor, dtype: torch.dtype, written: bool) -> str | None:
    """What keeps a tensor from standing beside the parameter `like`: "layout", "device", "dtype", "shape" or, where it
    is written, "overlap" (elements that share memory). None: nothing does."""
    if tensor.layout != torch.strided:
        return "layout"
    if tensor.device != like.device:
        return "device"
    if tensor.dtype != dtype:
        return "dtype"
    if tensor.shape != like.shape:
        return "shape"
    if written and any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape)):
        return "overlap"
    return None


def record_fault(words: Tensor, device: torch.device) -> str | None:
    """What keeps a tensor from being a parameter's record: "dtype" (of eight int64 words), "device" or "strides"."""
    if words.layout != torch.strided or words.dtype != torch.int64 or words.shape != (record.WORDS,):
        return "dtype"
    if words.device != device:
        return "device"
    return None if words.is_contiguous() else "strides"


def check_length(length: int, expected: int, name: str, each: int = 1) -> None:
    if length != expected * each:
        values = "one value" if each == 1 else f"{each} values"
        raise ValueError(f"{name} needs {values} for each of params: {expected * each}, got {length}")


def check_tensor(tensor: Tensor, param: Tensor, dtype: torch.dtype, name: str, written: bool) -> None:
    """Raises TypeError or ValueError that names the tensor if `tensor_fault` has one."""
    fault = tensor_fault(tensor, param, dtype, written)
    if fault == "layout":
        raise TypeError(f"{name} must be dense; sparse gradients are not supported (use sparse=False in the embedding)")
    if fault == "device":
        raise ValueError(f"{name} must be on {param.device} like params[0], got {tensor.device}")
    if fault == "dtype":
        raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
    if fault == "shape":
        raise ValueError(f"{name} must have the parameter's shape {list(param.shape)}, got {list(tensor.shape)}")
    if fault == "overlap":
        raise ValueError(f"{name} has elements that share memory (an expanded tensor): clone() it first")


def check_code(code: int, name: str, known: Collection[int] = DISTRIBUTIONS.values()) -> None:
    if code not in known:
        raise ValueError(f"{name} must be a code in [0, {len(known)}), got {code}")


def check_stream(stream: int) -> None:
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream must be in [0, 2^32), got {stream}")


def check_turn(turn: int) -> None:
    if not 0 <= turn < TURNS:
        raise ValueError(f"turn must be in [0, {TURNS}), got {turn}")


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


def _check_records(records: Sequence[Tensor], device: torch.device, name: str) -> None:
    for i, words in enumerate(records):
        fault = record_fault(words, device)
        if fault == "dtype":
            raise TypeError(f"{name}[{i}] must be an int64 tensor with {record.WORDS} elements")
        if fault == "device":
            raise ValueError(f"{name}[{i}] must be on {device} like params[0], got {words.device}")
        if fault == "strides":
            raise ValueError(f"{name}[{i}] must be contiguous()")
        if device.type == "cpu":  # elsewhere the host would have to wait for them
            _, _, distribution, stream, _, turn, *_ = words.tolist()
            check_stream(stream)
            check_code(distribution, "distribution")
            check_turn(turn)


def _check_runs(a: Arguments, lists: Sequence[Sequence[Tensor]]) -> None:
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
        if not all(x.is_contiguous() for tensors in lists for x in tensors[i :: len(a.params)]):
            raise ValueError(f"params[{i}] is a shard in runs: it, its gradient and its state must be contiguous()")


def _check_measures(a: Arguments) -> None:
    """Measures and rows; and that noise which is relative comes with them."""
    n = len(a.params)
    if a.measures or a.row_lengths:
        check_length(len(a.measures), n, "measures")
        check_length(len(a.row_lengths), n, "row_lengths")
    for i, (x, length) in enumerate(zip(a.measures, a.row_lengths)):
        shape = x.shape
        if x.layout != torch.strided or x.dtype != torch.float32 or len(shape) != 2 or shape[0] != 2 or shape[1] < 1:
            raise TypeError(f"measures[{i}] must be a float32 tensor of shape (2, rows)")
        if x.device != a.params[0].device:
            raise ValueError(f"measures[{i}] must be on {a.params[0].device} like params[0], got {x.device}")
        if not x.is_contiguous():
            raise ValueError(f"measures[{i}] must be contiguous()")
        if length < 0 or (length == 0) != (shape[1] == 1):
            raise ValueError(
                f"row_lengths[{i}] must be 0 for one measure and positive for several, got {length} for {shape[1]}"
            )
        if length and last_element(a, i) >= length * shape[1]:
            raise ValueError(
                f"params[{i}] has elements behind its {shape[1]} rows of {length}: measures[{i}] is of another shape"
            )
    if a.measures or n == 0 or a.params[0].device.type != "cpu":
        return
    targets = a.targets if isinstance(a, ReperturbArguments) else []
    for name, records in (("records", a.records), ("targets", targets)):
        for i, words in enumerate(records):
            if record.unpack(words.tolist()).is_relative:
                raise ValueError(f"{name}[{i}] tells of noise whose scale is relative: measures must hold its measures")


def last_element(a: Arguments, i: int) -> int:
    """The place in its full tensor of the last element that is here of parameter i; -1 where there is none."""
    numel = a.params[i].numel()
    if numel == 0:
        return -1
    length = a.run_lengths[i] if a.run_lengths else 0
    runs, rest = divmod(numel - 1, length) if length else (0, numel - 1)
    return a.offsets[i] + runs * (a.run_strides[i] if length else 0) + rest


def _check_sums(a: StepArguments | MeasureArguments) -> None:
    if a.measure and len(a.measures) != len(a.params):
        raise ValueError("measures must hold one tensor for each of params where there is a measure to be taken")
    if not a.sums:
        return
    check_length(len(a.sums), len(a.params), "sums")
    for i, (x, measures) in enumerate(zip(a.sums, a.measures)):
        shape = (measures.shape[1], SUM_WORDS)
        if x.dtype != torch.int64 or x.shape != shape or not x.is_contiguous() or x.device != measures.device:
            raise ValueError(f"sums[{i}] must be a contiguous int64 tensor of shape {shape} on {measures.device}")


def check_hyper(a: StepArguments) -> None:
    """How many hyper-parameters there are, and those that must lie below a limit for the rule to make sense."""
    rule = RULES[a.rule]
    if len(a.hyper) != len(rule.hyper):
        raise ValueError(f"hyper needs {len(rule.hyper)} values, got {len(a.hyper)}")
    values, device = a.hyper, a.params[0].device if a.params else torch.device("cpu")
    if a.hyper_tensor is not None:
        x = a.hyper_tensor
        if x.layout != torch.strided or x.dtype != torch.float64 or x.shape != (len(rule.hyper),) or x.device != device:
            raise ValueError(
                f"hyper_tensor must be None or a float64 tensor with {len(rule.hyper)} elements on {device}"
            )
        if device.type != "cpu":
            return
        values = x.tolist()
    for value, hyper in zip(values, rule.hyper):
        if hyper.high < float("inf") and not hyper.low <= value < hyper.high:
            raise ValueError(f"{hyper.name} must be in [{hyper.low:g}, {hyper.high:g}), got {value}")


def _check_common(a: Arguments, each: Callable[[int, Tensor, torch.dtype], None]) -> None:
    """Parameters, masters, records and offsets; `each` checks what a parameter has besides."""
    n = len(a.params)
    if a.masters and len(a.masters) != n:
        raise ValueError("masters must be empty or hold one tensor for each of params")
    if n == 0:
        return
    dtype = a.params[0].dtype
    if dtype not in DTYPES:
        raise TypeError(f"params[0] must be float32, float64, bfloat16 or float16, got {dtype}")
    for i, param in enumerate(a.params):
        if param.device != a.params[0].device:
            raise ValueError(f"params[{i}] must be on {a.params[0].device} like params[0], got {param.device}")
        check_tensor(param, param, dtype, f"params[{i}]", written=True)
        if a.masters:
            check_tensor(a.masters[i], param, wide_dtype(dtype), f"masters[{i}]", written=True)
        each(i, param, dtype)
    _check_records(a.records, a.params[0].device, "records")
    for i, offset in enumerate(a.offsets):
        if offset < 0:
            raise ValueError(f"offsets[{i}] must not be negative, got {offset}")


def check_step(a: StepArguments) -> None:
    """What `step_` refuses. Raises ValueError or TypeError that names the argument and its position."""
    n = len(a.params)
    check_code(a.rule, "rule", range(len(RULES)))
    states = len(RULES[a.rule].states)
    for name in ("grads", "steps", "records", "offsets"):
        check_length(len(getattr(a, name)), n, name)
    check_length(len(a.states), n, "states", states)
    check_code(a.distribution, "distribution")
    if a.denoise_every < 0:
        raise ValueError(f"denoise_every must not be negative, got {a.denoise_every}")
    if a.cycle and a.keep_noise:
        raise ValueError("cycle must be False with keep_noise: noise that stays has to be drawn anew in every step")
    check_hyper(a)

    def check_each(i: int, param: Tensor, dtype: torch.dtype) -> None:
        check_tensor(a.grads[i], param, dtype, f"grads[{i}]", written=False)
        for k in range(i, len(a.states), n):
            check_tensor(a.states[k], param, wide_dtype(dtype) if a.masters else dtype, f"states[{k}]", written=True)
        step = a.steps[i]
        if step.layout != torch.strided or step.dtype != torch.int64 or step.numel() != 1:
            raise TypeError(f"steps[{i}] must be an int64 tensor with one element")
        if step.device != param.device:
            raise ValueError(f"steps[{i}] must be on {param.device} like params[0], got {step.device}")

    _check_common(a, check_each)
    if n == 0:
        return
    device = a.params[0].device
    if a.scale_tensors and (
        len(a.scale_tensors) != n
        or any(x.dtype != torch.float32 or x.numel() != 1 or x.device != device for x in a.scale_tensors)
    ):
        raise ValueError(
            "scale_tensors must be empty or hold one float32 tensor with one element for each of params, on their "
            "device"
        )
    check_scalar(a.grad_scale, device, "grad_scale")
    check_scalar(a.found_inf, device, "found_inf")
    _check_runs(a, [a.params, a.grads, a.states, a.masters])
    check_code(a.measure, "measure", MEASURES.values())
    if a.measure and a.keep_noise:
        raise ValueError("measure must be 0 with keep_noise: noise that stays has no clean weights beside it")
    _check_measures(a)
    _check_sums(a)


def check_reperturb(a: ReperturbArguments) -> None:
    """What `reperturb_` refuses. Raises ValueError or TypeError that names the argument and its position."""
    for name in ("records", "targets", "offsets"):
        check_length(len(getattr(a, name)), len(a.params), name)
    _check_common(a, lambda i, param, dtype: None)
    if a.params:
        _check_records(a.targets, a.params[0].device, "targets")
        _check_runs(a, [a.params, a.masters])
        _check_measures(a)


def check_measure(a: MeasureArguments) -> None:
    """What `measure_` refuses. Raises ValueError or TypeError that names the argument and its position."""
    for name in ("records", "offsets"):
        check_length(len(getattr(a, name)), len(a.params), name)
    check_code(a.measure - 1, "measure", range(len(MEASURES) - 1))
    _check_common(a, lambda i, param, dtype: None)
    if a.params:
        _check_runs(a, [a.params, a.masters])
        _check_measures(a)
        _check_sums(a)
