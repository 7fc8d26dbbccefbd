"""The operators in Triton: the arguments of nvrm_fast/reference, checked alike, in one launch for all parameters.

Step counters lie on the CPU or on the parameters' device. On the device they are read by the kernel and increased after
it, so that a captured CUDA graph draws fresh noise at every replay; Adam's bias corrections are then worked out on the
device as well, by the same operations in float64.

Tensors that are not contiguous in row-major order (channels_last weights among them) go through a contiguous copy and
back: correct, at the cost of that copy and its memory.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from ..reference.arguments import AdamStep, ChangeCoat, SgdStep, Step
from ..reference.checks import check_fill, check_step
from ..reference.rule import adam_scalars
from . import kernels
from .table import launch

TYPES = {
    torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16,
}  # fmt: skip
NO_RULE, SGD, ADAM = kernels.NO_RULE.value, kernels.SGD.value, kernels.ADAM.value
#: What a kernel is compiled for, where a rule has no such option.
NO_OPTIONS = dict(
    STATES=0, WITH_DECAY=False, NESTEROV=False, DECOUPLED=False, MAXIMIZE=False, KEEP_NOISE=False,
    BIAS_ON_DEVICE=False, SCALED=False,
)  # fmt: skip


def fill_noise_(self: Tensor, seed: int, stream: int, step: int, distribution: int, scale: float, offset: int) -> None:
    """Overwrites a contiguous float32 tensor with elements offset .. offset + numel of one noise stream.

    Raises TypeError or ValueError for another dtype, other strides, a negative offset or an unknown distribution.
    """
    check_fill(self, stream, distribution, offset)
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


def _in_runs(a: Step, columns: dict[str, list], pointers: dict[str, list[Tensor]]) -> tuple[dict, list[int], list[int]]:
    """Columns, lengths and offsets with a line for each run of a shard that lies in pieces; all are contiguous."""
    numels = [x.numel() for x in a.params]
    if not any(a.run_lengths):
        return columns, numels, list(a.offsets)
    lines = [
        (i, k * length, length or numel, offset + k * stride)
        for i, (numel, offset, length, stride) in enumerate(zip(numels, a.offsets, a.run_lengths, a.run_strides))
        for k in range(numel // length if length else 1)
    ]
    columns = {name: [values[i] for i, *_ in lines] for name, values in columns.items()}
    for name, tensors in pointers.items():
        columns[name] = [tensors[i].data_ptr() + begin * tensors[i].element_size() for i, begin, _, _ in lines]
    return columns, [length for _, _, length, _ in lines], [offset for _, _, _, offset in lines]


def _run(a: Step, columns: dict, rule: int, hyper=(), bias=(0.0, 0.0, 0.0), **options) -> None:
    """Runs the step kernel on tensors of any strides; all arguments are checked."""
    written = {"parameter": a.params, "master": a.masters if rule != NO_RULE else []}
    written.update({f"state_{k}": tensors for k, tensors in enumerate(a.states.values())})
    read = {"master": a.masters} if rule == NO_RULE else {"gradient": a.grads}
    copies = {name: [x.contiguous() for x in tensors] for name, tensors in {**written, **read}.items() if tensors}
    columns = {
        **columns,
        **{name: [x.data_ptr() for x in tensors] for name, tensors in copies.items()},
        "scale": [float(scale) for scale in a.scales],
        "coat_scale": [float(scale) for scale in a.coat_scales],
    }
    columns, numels, offsets = _in_runs(a, columns, copies)
    dtype = a.params[0].dtype
    launch(
        kernels.step_kernel, a.params[0].device, columns, numels, offsets, a.seed, a.coat_seed,
        hyper, bias, [0 if x is None else x.data_ptr() for x in (a.grad_scale, a.found_inf)],
        RULE=rule, DTYPE=TYPES[dtype], MATH=tl.float64 if dtype == torch.float64 else tl.float32,
        WITH_MASTERS=bool(a.masters), DISTRIBUTION=a.distribution, COAT_DISTRIBUTION=a.coat_distribution,
        **{**NO_OPTIONS, **options},
    )  # fmt: skip
    for name, tensors in written.items():
        for tensor, copy in zip(tensors, copies.get(name, ())):
            if copy is not tensor and copy.data_ptr() != tensor.data_ptr():
                tensor.copy_(copy)
        # The kernel writes behind autograd's back; whoever saved such a tensor for backward must hear of it.
        torch.autograd.graph.increment_version([x for x in tensors if not x.is_inference()])


def _count(a: SgdStep | AdamStep) -> None:
    """Increases the counters, unless the step was skipped; the host waits only for counters on the CPU."""
    if a.found_inf is None:
        torch._foreach_add_(a.steps, 1)
    elif a.steps[0].device == a.found_inf.device:
        torch._foreach_add_(a.steps, (a.found_inf.reshape(()) == 0).to(torch.int64))
    elif not bool(a.found_inf != 0):
        torch._foreach_add_(a.steps, 1)


def sgd_step_(*args) -> None:
    """One step of SGD with a change of coat; arguments and errors as nvrm_fast.reference.sgd_step_."""
    a = SgdStep(*args)
    check_step(a)
    if not a.params:
        return
    columns = {
        **_counter_columns(a.steps, a.params[0].device), "stream": a.streams, "is_first": [int(x) for x in a.is_first]
    }  # fmt: skip
    _run(
        a, columns, SGD, hyper=(a.lr, a.momentum, 1 - a.dampening, a.weight_decay), STATES=len(a.states),
        WITH_DECAY=a.weight_decay != 0, NESTEROV=bool(a.nesterov), MAXIMIZE=bool(a.maximize),
        KEEP_NOISE=bool(a.keep_noise), SCALED=a.grad_scale is not None,
    )  # fmt: skip
    _count(a)


def adam_step_(*args) -> None:
    """One step of Adam or AdamW with a change of coat; arguments and errors as nvrm_fast.reference.adam_step_."""
    a = AdamStep(*args)
    check_step(a)
    if not a.params:
        return
    columns = {**_counter_columns(a.steps, a.params[0].device), "stream": a.streams}
    bias_on_device = any(columns["step_pointer"])
    if not bias_on_device:
        scalars = [adam_scalars(step + 1, a.lr, a.beta1, a.beta2) for step in columns["step"]]
        columns["step_size"], columns["root_scale"] = (list(column) for column in zip(*scalars))
    shrink = 1 - a.lr * a.weight_decay
    _run(
        a, columns, ADAM, hyper=(a.beta1, 1 - a.beta1, a.beta2, 1 - a.beta2, a.eps, a.weight_decay, shrink),
        bias=(a.lr, a.beta1, a.beta2), STATES=len(a.states), WITH_DECAY=a.weight_decay != 0,
        DECOUPLED=bool(a.decoupled_weight_decay), MAXIMIZE=bool(a.maximize), KEEP_NOISE=bool(a.keep_noise),
        BIAS_ON_DEVICE=bias_on_device, SCALED=a.grad_scale is not None,
    )  # fmt: skip
    _count(a)


def change_coat_(*args) -> None:
    """Takes the coat off and puts another on; arguments and errors as nvrm_fast.reference.change_coat_."""
    a = ChangeCoat(*args)
    check_step(a)
    if a.params:
        _run(a, {**_counter_columns(a.steps, a.params[0].device), "stream": a.streams}, NO_RULE)
