"""The operators in Triton: the arguments of nvrm_fast/reference, checked alike, in one launch for all parameters.

Step counters lie on the CPU or on the parameters' device. On the device they are read by the kernel and increased after
it, so that a captured CUDA graph draws fresh noise at every replay; Adam's bias corrections are then worked out on the
device as well, in float64 but by another way to take a power, so that an update may differ in its last bits from the
reference. The noise never does, and with counters on the CPU nothing does.

Tensors that are not contiguous in row-major order (channels_last weights among them) go through a contiguous copy and
back: correct, at the cost of that copy and its memory.
"""

from __future__ import annotations

import math

import torch
import triton.language as tl
from torch import Tensor

from ..reference.checks import check_code, check_fill, check_length, check_step
from ..reference.distribution import BY_CODE
from . import kernels
from .table import launch

TYPES = {
    torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16,
}  # fmt: skip
NO_RULE, SGD, ADAM = kernels.NO_RULE.value, kernels.SGD.value, kernels.ADAM.value
#: What a kernel is compiled for, where a rule has no such option.
NO_OPTIONS = dict(
    STATES=0, WITH_DECAY=False, NESTEROV=False, DECOUPLED=False, MAXIMIZE=False, KEEP_NOISE=False, BIAS_ON_DEVICE=False
)


def fill_noise_(self: Tensor, seed: int, stream: int, step: int, distribution: int, scale: float, offset: int) -> None:
    """Overwrites a contiguous float32 tensor with elements offset .. offset + numel of one noise stream.

    Raises TypeError or ValueError for another dtype, other strides, a negative offset or an unknown distribution.
    """
    check_fill(self, stream, distribution, offset, BY_CODE)
    columns = {"parameter": [self.data_ptr()], "stream": [stream], "step": [step], "scale": [float(scale)]}
    launch(
        kernels.fill_noise_kernel, self.device, columns, [self.numel()], [offset], seed, DISTRIBUTION=distribution
    )  # fmt: skip
    if not self.is_inference():
        torch.autograd.graph.increment_version(self)


def _counter_columns(steps: list[Tensor], device: torch.device) -> dict[str, list[int]]:
    """The counter's address where it lies on the device of the parameters, else its value."""
    there = [device.type != "cpu" and step.device == device for step in steps]
    return {
        "step": [0 if on_device else int(step) for on_device, step in zip(there, steps)],
        "step_pointer": [step.data_ptr() if on_device else 0 for on_device, step in zip(there, steps)],
    }


def _run(
    params: list[Tensor], grads: list[Tensor], states: list[list[Tensor]], masters: list[Tensor], columns: dict,
    offsets: list[int], scales: list[float], seed: int, distribution: int, coat_scales: list[float], coat_seed: int,
    coat_distribution: int, rule: int, hyper=(), bias=(0.0, 0.0, 0.0), **options,
) -> None:  # fmt: skip
    """Runs the step kernel on tensors of any strides; all arguments are checked."""
    written = {"parameter": params, "master": masters if rule != NO_RULE else []}
    written.update({f"state_{k}": tensors for k, tensors in enumerate(states)})
    read = {"gradient": grads, "master": masters} if rule == NO_RULE else {"gradient": grads}
    copies = {name: [x.contiguous() for x in tensors] for name, tensors in {**written, **read}.items() if tensors}
    columns = {
        **columns,
        **{name: [x.data_ptr() for x in tensors] for name, tensors in copies.items()},
        "scale": [float(scale) for scale in scales],
        "coat_scale": [float(scale) for scale in coat_scales],
    }
    dtype = params[0].dtype
    launch(
        kernels.step_kernel, params[0].device, columns, [x.numel() for x in params], list(offsets), seed, coat_seed,
        hyper, bias, RULE=rule, DTYPE=TYPES[dtype], MATH=tl.float64 if dtype == torch.float64 else tl.float32,
        WITH_MASTERS=bool(masters), DISTRIBUTION=distribution, COAT_DISTRIBUTION=coat_distribution,
        **{**NO_OPTIONS, **options},
    )  # fmt: skip
    for name, tensors in written.items():
        for tensor, copy in zip(tensors, copies.get(name, ())):
            if copy is not tensor and copy.data_ptr() != tensor.data_ptr():
                tensor.copy_(copy)
        # The kernel writes behind autograd's back; whoever saved such a tensor for backward must hear of it.
        torch.autograd.graph.increment_version([x for x in tensors if not x.is_inference()])


def sgd_step_(
    params, grads, momentum_buffers, masters, steps, streams, offsets, scales, seed, distribution, coat_scales,
    coat_seed, coat_distribution, keep_noise, is_first, lr, momentum, dampening, weight_decay, nesterov, maximize,
) -> None:  # fmt: skip
    """One step of SGD with a change of coat; arguments and errors as nvrm_fast.reference.sgd_step_."""
    check_length(len(is_first), len(params), "is_first")
    states = {"momentum_buffers": momentum_buffers} if momentum != 0 else {}
    check_step(
        params, grads, states, masters, steps,
        streams=streams, offsets=offsets, scales=scales, coat_scales=coat_scales,
    )  # fmt: skip
    check_code(distribution, BY_CODE, "distribution")
    check_code(coat_distribution, BY_CODE, "coat_distribution")
    if not params:
        return
    columns = {**_counter_columns(steps, params[0].device), "stream": streams, "is_first": [int(x) for x in is_first]}
    _run(
        params, grads, list(states.values()), masters, columns, offsets, scales, seed, distribution, coat_scales,
        coat_seed, coat_distribution, SGD, hyper=(lr, momentum, 1 - dampening, weight_decay), STATES=len(states),
        WITH_DECAY=weight_decay != 0, NESTEROV=bool(nesterov), MAXIMIZE=bool(maximize), KEEP_NOISE=bool(keep_noise),
    )  # fmt: skip
    torch._foreach_add_(steps, 1)


def adam_step_(
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, steps, streams, offsets, scales, seed,
    distribution, coat_scales, coat_seed, coat_distribution, keep_noise, lr, beta1, beta2, eps, weight_decay, amsgrad,
    decoupled_weight_decay, maximize,
) -> None:  # fmt: skip
    """One step of Adam or AdamW with a change of coat; arguments and errors as nvrm_fast.reference.adam_step_."""
    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if amsgrad:
        states["max_exp_avg_sqs"] = max_exp_avg_sqs
    check_step(
        params, grads, states, masters, steps,
        streams=streams, offsets=offsets, scales=scales, coat_scales=coat_scales,
    )  # fmt: skip
    check_code(distribution, BY_CODE, "distribution")
    check_code(coat_distribution, BY_CODE, "coat_distribution")
    if not params:
        return
    columns = {**_counter_columns(steps, params[0].device), "stream": streams}
    bias_on_device = any(columns["step_pointer"])
    if not bias_on_device:
        done = [step + 1 for step in columns["step"]]
        columns["step_size"] = [lr / (1 - beta1**step) for step in done]
        columns["root_scale"] = [1 / math.sqrt(1 - beta2**step) for step in done]
    shrink = 1 - lr * weight_decay
    _run(
        params, grads, list(states.values()), masters, columns, offsets, scales, seed, distribution, coat_scales,
        coat_seed, coat_distribution, ADAM, hyper=(beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay, shrink),
        bias=(lr, beta1, beta2), STATES=len(states), WITH_DECAY=weight_decay != 0,
        DECOUPLED=bool(decoupled_weight_decay), MAXIMIZE=bool(maximize), KEEP_NOISE=bool(keep_noise),
        BIAS_ON_DEVICE=bias_on_device,
    )  # fmt: skip
    torch._foreach_add_(steps, 1)


def change_coat_(
    params, masters, steps, streams, offsets, scales, seed, distribution, coat_scales, coat_seed, coat_distribution,
) -> None:  # fmt: skip
    """Takes the coat off and puts another on; arguments and errors as nvrm_fast.reference.change_coat_."""
    check_step(
        params, params, {}, masters, steps,
        streams=streams, offsets=offsets, scales=scales, coat_scales=coat_scales,
    )  # fmt: skip
    check_code(distribution, BY_CODE, "distribution")
    check_code(coat_distribution, BY_CODE, "coat_distribution")
    if not params:
        return
    columns = {**_counter_columns(steps, params[0].device), "stream": streams}
    _run(
        params, [], [], masters, columns, offsets, scales, seed, distribution, coat_scales, coat_seed,
        coat_distribution, NO_RULE,
    )  # fmt: skip
