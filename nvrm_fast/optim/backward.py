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

from .batches import Part, same_objects
from .interface import SteppedOptimizer
from .shards import is_distributed

_REENTRANT: CodeType = CheckpointFunction.backward.__code__


class Handles:
    """The hooks of an optimizer's parameters behind one handle; parameters of later groups join them."""

    def __init__(self, optimizer: SteppedOptimizer) -> None:
        self._optimizer = optimizer
        self._handles: list[RemovableHandle] = []
        self._places: dict[Tensor, tuple[dict[str, Any], int]] = {}  # of all parameters that have hooks
        self._groups: list[dict[str, Any]] = []  # those that they were found in
        self._task = -1  # the backward pass that goes on
        for group in optimizer.param_groups:
            self.add(group)

    def add(self, group: dict[str, Any]) -> None:
        """Hooks for all parameters of a group. One that is frozen now may be trained later, and gets its hook, too."""
        for i, param in enumerate(group["params"]):
            self._places[param] = group, i
            needs_gradient = param.requires_grad
            param.requires_grad_(True)  # torch sets no hook without
            try:
                self._handles.append(param.register_post_accumulate_grad_hook(self._hook))
            finally:
                param.requires_grad_(needs_gradient)

    def _hook(self, param: Tensor) -> None:
        _refuse_partial_gradient(param)
        self._begin()
        place = self._place_of(param)
        if place is not None:  # else it was taken out of the groups: as for step(), its gradient is nobody's
            self._step(param, *place)

    def _step(self, param: Tensor, group: dict[str, Any], i: int) -> None:
        with torch.no_grad():
            self._optimizer._step([Part.of_positions(group, (i,))])
        param.grad = None

    def _place_of(self, param: Tensor) -> tuple[dict[str, Any], int] | None:
        """Its group and its position there now: lists are edited, and a loaded state brings other groups."""
        groups = self._optimizer.param_groups
        if not same_objects(groups, self._groups):
            self._find_places()
        group, i = self._places[param]
        if i < len(group["params"]) and group["params"][i] is param:
            return group, i
        self._find_places()
        group, i = self._places[param]
        return (group, i) if i < len(group["params"]) and group["params"][i] is param else None

    def _find_places(self) -> None:
        self._groups = list(self._optimizer.param_groups)
        self._places = dict.fromkeys(self._places, ({"params": []}, 0))
        for group in self._groups:
            self._places.update({each: (group, k) for k, each in enumerate(group["params"]) if each in self._places})

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
        self._step_unknown()
        optimizer._opt_called = True  # what torch's schedulers ask
        for hook in itertools.chain(_hooks(optimizer, "post"), torch_optimizer._global_optimizer_post_hooks.values()):
            hook(optimizer, (), {})

    def _step_unknown(self) -> None:
        """Parameters that were put into a group's list since have no hook: they are stepped now, and get one."""
        for group in self._optimizer.param_groups:
            unknown = [(i, param) for i, param in enumerate(group["params"]) if param not in self._places]
            for i, param in unknown:
                if param.grad is not None:
                    self._step(param, group, i)
            if unknown:
                self.add({"params": [param for _, param in unknown]})
                self._places.update({param: (group, i) for i, param in unknown})

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
