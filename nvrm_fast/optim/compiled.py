"""step() under torch.compile: one operator in the graph, which does at run time what step() does without it.

Learning rates, b, seeds and the records of the noise are read when the graph runs. None of them is a constant of the
graph, so nothing that a schedule changes compiles anything again.
"""

from __future__ import annotations

import itertools
import weakref

import torch
from torch import Tensor

from ..ops.step import _library
from . import amp
from .batches import Part, same_objects
from .interface import SteppedOptimizer
from .shards import is_distributed

_count = itertools.count()
_optimizers: weakref.WeakValueDictionary[int, SteppedOptimizer] = weakref.WeakValueDictionary()


def register(optimizer: SteppedOptimizer) -> None:
    """Gives the optimizer the number by which the operator finds it, and notes its parameters in one plain list: what
    the compiler sees of it (it would guard every option of param_groups)."""
    if "_number" not in vars(optimizer):
        optimizer._number = next(_count)
    _optimizers[optimizer._number] = optimizer
    optimizer._params = params = [param for group in optimizer.param_groups for param in group["params"]]
    optimizer._has_shards = any(is_distributed(param) for param in params)


def step(optimizer: SteppedOptimizer) -> None:
    """What is traced. Only parameters with a gradient are handed over; which they are is part of the graph."""
    if optimizer._has_shards:
        _step_outside(optimizer)  # the operator has no rule for DTensors
        return
    positions = [i for i, param in enumerate(optimizer._params) if param.grad is not None]
    params = [optimizer._params[i] for i in positions]
    grad_scale, found_inf = amp.scaling_of(optimizer)
    with torch.no_grad():
        torch.ops.nvrm_fast.optimizer_step_(
            params, [param.grad for param in params], positions, optimizer._number, grad_scale, found_inf
        )


@torch._disable_dynamo  # type: ignore[attr-defined]  # as torch.optim: torch.compiler.disable would import dynamo
def _step_outside(optimizer: SteppedOptimizer) -> None:
    optimizer._step_now()


def _run(
    params: list[Tensor], grads: list[Tensor], positions: list[int], number: int, grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:  # fmt: skip
    """The operator. It writes into the tensors that it is given: they may stand for the parameters."""
    optimizer = _optimizers[number]
    now = [param for group in optimizer.param_groups for param in group["params"]]
    noted = optimizer._params
    pairs = list(zip(params, grads))
    if same_objects(now, noted):
        given = dict(zip(positions, pairs))
    else:  # a group's list was edited, and the graph is of the parameters that were there: they tell which are meant
        register(optimizer)  # the next call compiles again
        by_param = {noted[position]: pair for position, pair in zip(positions, pairs)}
        for param in now:
            if param.grad is not None and not any(param is other for other in noted):
                by_param[param] = param, param.grad
        given = {i: by_param[param] for i, param in enumerate(now) if param in by_param}
    parts, first = [], 0
    for group in optimizer.param_groups:
        own = tuple(i for i in range(len(group["params"])) if first + i in given)
        if own:
            data, own_grads = zip(*(given[first + i] for i in own))
            parts.append(Part(group, own, [group["params"][i] for i in own], list(data), list(own_grads)))
        first += len(group["params"])
    with torch.no_grad():
        optimizer._step(parts, grad_scale, found_inf)


_SCHEMA = (
    "(Tensor(a!)[] params, Tensor[] grads, int[] positions, int optimizer, Tensor? grad_scale=None, "
    "Tensor? found_inf=None) -> ()"
)
# State is written that the graph does not see: a recorded CUDA graph must leave this operator out.
_library.define("optimizer_step_" + _SCHEMA, tags=(torch.Tag.cudagraph_unsafe,))
_library.impl("optimizer_step_", _run, "CompositeExplicitAutograd")
torch.library.register_fake("nvrm_fast::optimizer_step_", lambda *args, **kwargs: None, lib=_library)
