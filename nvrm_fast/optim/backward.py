"""The step in the backward pass: each parameter as soon as its gradient is there."""

from __future__ import annotations

import itertools
import sys
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.optim import optimizer as torch_optimizer
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import RemovableHandle

from .batches import Part
from .interface import SteppedOptimizer
from .shards import is_distributed

_REENTRANT: CodeType = CheckpointFunction.backward.__code__


class Handles:
    """The hooks of an optimizer's parameters behind one handle; parameters of later groups join them."""

    def __init__(self, optimizer: SteppedOptimizer) -> None:
        self._optimizer = optimizer
        self._handles: list[RemovableHandle] = []
        self._task = -1  # the backward pass that goes on
        for group in optimizer.param_groups:
            self.add(group)

    def add(self, group: dict[str, Any]) -> None:
        """Hooks for all parameters of a group. One that is frozen now may be trained later, and gets its hook, too."""
        for i, param in enumerate(group["params"]):
            needs_gradient = param.requires_grad
            param.requires_grad_(True)  # torch sets no hook without
            try:
                self._handles.append(param.register_post_accumulate_grad_hook(self._hook_for(group, i)))
            finally:
                param.requires_grad_(needs_gradient)

    def _hook_for(self, group: dict[str, Any], i: int) -> Any:
        def hook(param: Tensor) -> None:
            _refuse_partial_gradient(param)
            self._begin()
            with torch.no_grad():
                self._optimizer._step([Part.of_positions(group, (i,))])
            param.grad = None

        return hook

    def _begin(self) -> None:
        """The first parameter of a backward pass: what step() does once around the step. Hooks get no arguments."""
        task = torch._C._current_graph_task_id()
        if task == self._task:
            return
        self._task = task
        optimizer: Any = self._optimizer
        for hook in (*torch_optimizer._global_optimizer_pre_hooks.values(), *_hooks(optimizer, "pre")):
            hook(optimizer, (), {})
        Variable._execution_engine.queue_callback(self._end)

    def _end(self) -> None:
        optimizer: Any = self._optimizer
        optimizer._opt_called = True  # what torch's schedulers ask
        for hook in itertools.chain(_hooks(optimizer, "post"), torch_optimizer._global_optimizer_post_hooks.values()):
            hook(optimizer, (), {})

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        vars(self._optimizer).pop("_in_backward", None)

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _hooks(optimizer: Any, when: str) -> list[Any]:
    return list(getattr(optimizer, f"_optimizer_step_{when}_hooks").values())


def _refuse_partial_gradient(param: Tensor) -> None:
    """Raises RuntimeError where the gradient in the hook is not yet the whole one."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        if not is_distributed(param):
            raise RuntimeError(
                "step_in_backward() would take each process's gradient before DistributedDataParallel has averaged "
                "it, and the processes' weights would drift apart: call step() after backward(), or use fully_shard"
            )
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _REENTRANT:
            raise RuntimeError(
                "step_in_backward() within checkpoint(use_reentrant=True) would step a parameter once for each of its "
                "uses: pass use_reentrant=False"
            )
        frame = frame.f_back  # type: ignore[assignment]  # None above the first


def step_in_backward(optimizer: SteppedOptimizer) -> Handles:
    """See NoisyOptimizer.step_in_backward."""
    optimizer._in_backward = handles = Handles(optimizer)
    return handles
