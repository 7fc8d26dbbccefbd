"""Which forward passes of a stochastic layer a regularizer counts, and activation checkpointing.

A pass's penalty is a function of sums that the pass makes, so it belongs to the graph of the pass's output. It is open
for regularizer_loss until that output has been differentiated: what an attack or a saliency map has used up belongs to
another loss.

Checkpoints make passes again inside backward, which must not count twice. With use_reentrant=False the first pass has
the graph. With use_reentrant=True it has none: the penalty's value is taken from it, and its gradient is added where
the pass is made again, by the factor that the penalty has in the loss. The penalty's node is newer than the
checkpoint's, so the autograd engine, which goes from new nodes to old ones, comes to it first.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction


def _runs(code: CodeType) -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def in_checkpoint_forward() -> bool:
    """Whether a reentrant checkpoint makes the pass, without a graph."""
    return not torch.compiler.is_compiling() and _runs(CheckpointFunction.forward.__code__)


def in_checkpoint_backward() -> bool:
    """Whether a reentrant checkpoint makes the pass again."""
    return _runs(CheckpointFunction.backward.__code__)


def is_open(sums: Tensor) -> bool:
    """Whether a pass's output has not been differentiated yet; False too for sums of a torch.func transform that is
    over."""
    alive = torch._C._functorch.unwrap_if_dead(sums) is sums
    return alive and not getattr(sums.grad_fn, "spent", False)


class _Replayed(torch.autograd.Function):
    """The value of a replayed pass's penalty; backward says by which factor it is in the loss."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, replayed: ReplayedPass) -> Tensor:
        ctx.replayed = replayed
        return replayed.value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.replayed.factor = grad
        return None, None


class ReplayedPass:
    """A pass whose graph is made in backward. value: of its penalty; taken: whether regularizer_loss has counted it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.taken = False
        self.factor: Tensor | None = None

    def penalty(self) -> Tensor:
        """The value, as a function in the loss's graph."""
        self.taken = True
        with torch.enable_grad():
            return _Replayed.apply(torch.zeros((), device=self.value.device, requires_grad=True), self)

    def add_gradient(self, penalty: Tensor) -> None:
        """Adds the gradient of the penalty of the pass as it was made again, if the loss has it."""
        if self.factor is not None and penalty.requires_grad:
            torch.autograd.backward(penalty, self.factor, retain_graph=True)
