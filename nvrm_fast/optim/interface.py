"""What the parts of an optimizer (checkpoints, torch.compile, the step in the backward pass) ask of it.

`NoisyOptimizer` in base.py calls them and has these attributes. They know this much of it and not its module, so that
imports lead one way.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Protocol

from torch import Tensor

from ..contract.rules import Rule
from .batches import ParamRef, Part


class SteppedOptimizer(Protocol):
    """The part of `NoisyOptimizer` that its parts use; what each of these is stands there and in torch.optim."""

    param_groups: list[dict[str, Any]]
    state: defaultdict[Tensor, Any]
    defaults: dict[str, Any]

    # What compiled.py notes.
    _number: int
    _params: list[Tensor]
    _has_shards: bool
    _in_backward: Any

    @property
    def keep_noise(self) -> bool: ...

    def _rule(self, group: dict[str, Any]) -> Rule: ...

    def _noise_scale(self, group: dict[str, Any]) -> float | Tensor: ...

    def _seed(self, group: dict[str, Any]) -> int: ...

    def _wants_master(self, group: dict[str, Any], param: Tensor) -> bool: ...

    def _take_noise_off(self, group: dict[str, Any], refs: list[ParamRef]) -> None: ...

    def _stream(self, param: Tensor) -> int: ...

    def _step(self, parts: list[Part], grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None: ...

    def _step_now(self) -> None: ...
