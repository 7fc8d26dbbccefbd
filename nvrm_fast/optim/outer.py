"""Optimizers of other libraries that hold one of these and get its noise wrong: found by who calls, and refused."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch.optim import Optimizer

#: Calls between a wrapper's own method and ours, hooks and decorators included, are fewer.
_DEEPEST = 24

#: They average the weights while these carry noise, whatever is done.
SCHEDULE_FREE = frozenset(("ScheduleFreeWrapper", "ScheduleFreeWrapperReference"))
_OUTER = SCHEDULE_FREE | {"Lookahead", "ZeroRedundancyOptimizer"}


def kind_of(wrapper: object) -> str | None:
    """The name of a class that is known here, or None."""
    return next((cls.__name__ for cls in type(wrapper).__mro__ if cls.__name__ in _OUTER), None)


def _holds_optimizer(wrapper: object) -> bool:
    return any(isinstance(value, Optimizer) for value in vars(wrapper).values())


def find_caller() -> tuple[str, Any] | None:
    """The kind of such a wrapper one of whose methods is running, and the wrapper."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEEPEST):
        if frame is None:
            return None
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self":
            wrapper = frame.f_locals.get("self")
            kind = kind_of(wrapper)
            if kind == "ZeroRedundancyOptimizer" or (kind is not None and _holds_optimizer(wrapper)):
                return kind, wrapper
        frame = frame.f_back
    return None


def refuse_partition(caller: tuple[str, Any] | None) -> None:
    """Raises ValueError in the constructor of torch's ZeroRedundancyOptimizer."""
    if caller is not None and caller[0] == "ZeroRedundancyOptimizer":
        raise ValueError(
            "ZeroRedundancyOptimizer makes one optimizer in each process for its own part of the parameters: all parts "
            "would carry the same noise, and no process could take it off the others' weights. Use fully_shard (FSDP2)"
        )


def _has_noise(group: dict[str, Any]) -> bool:
    """Unless b is a number that is 0: the host does not wait for a tensor."""
    b = group["variability"]
    return not isinstance(b, (int, float)) or b != 0


def refuse_average(caller: tuple[str, Any], groups: list[dict[str, Any]]) -> None:
    """Raises RuntimeError where a wrapper would take weights that carry noise into an average.

    Without noise (b = 0) nothing is refused, nor where all weights are clean whenever Lookahead takes its average.
    """
    kind, wrapper = caller
    noisy = [group for group in groups if _has_noise(group)]
    if not noisy:
        return
    if kind in SCHEDULE_FREE:
        raise RuntimeError(
            f"{kind} averages the weights while they carry noise, and the noise would stay in the average: use the "
            "optimizer without it, and torch.optim.swa_utils.AveragedModel inside `with optimizer.denoised():`"
        )
    if kind == "Lookahead":
        for group in noisy:
            k = getattr(wrapper, "k", group.get("lookahead_k"))
            every = group.get("denoise_every")
            if not isinstance(k, int) or not every or k % every != 0:
                raise RuntimeError(
                    f"Lookahead takes an average every k = {k} steps, of weights that carry noise then: make the "
                    f"optimizer with denoise_every={k}, so that they are clean then"
                )
