"""A schedule for the variability b, used as torch's learning rate schedulers are."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

FUNCTIONS = (types.FunctionType, types.MethodType)


class VariabilityScheduler(LRScheduler):
    """Sets each group's variability to its initial value times a function of the epoch, as LambdaLR does with lr.

    The next optimizer step puts noise of the new variability on and takes the old noise off with the old one, so
    any schedule is exact. The learning rates are left alone: use it beside a learning rate scheduler. It is one of
    torch's LRScheduler classes, so that Lightning, Accelerate and ChainedScheduler step it, save it and load it.

        scheduler = VariabilityScheduler(optimizer, lambda epoch: max(0.0, 1 - epoch / 30))
        for epoch in range(40):
            train(...)
            scheduler.step()

    Args:
        optimizer: any optimizer all of whose groups have `variability` (not SGLD).
        variability_lambda: a function that takes the epoch (the number of calls of `step()`) and returns a factor of at
            least 0, or a sequence of such functions, one a group.
        last_epoch: index of the last epoch; -1 (default) starts anew. Other values need groups with
            `initial_variability`, which an optimizer that was loaded from a checkpoint has.

    Raises:
        TypeError: optimizer is not an optimizer, or has a group without variability.
        ValueError: the number of functions is not that of the groups, or a group was added after the scheduler was
            made; a negative factor is refused by the optimizer's next step.
        KeyError: last_epoch is not -1 and a group has no `initial_variability`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        variability_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        groups = optimizer.param_groups
        for i, group in enumerate(groups):
            if "variability" not in group:
                raise TypeError(f"group {i} of {type(optimizer).__name__} has no variability to schedule")
            if last_epoch == -1:
                group.setdefault("initial_variability", group["variability"])
            elif "initial_variability" not in group:
                raise KeyError(
                    f"group {i} has no 'initial_variability', which last_epoch={last_epoch} needs: "
                    "load the optimizer's state first, or leave last_epoch out"
                )
        if callable(variability_lambda):
            self.variability_lambdas = [variability_lambda] * len(groups)
        else:
            self.variability_lambdas = list(variability_lambda)
        self.base_variabilities = [float(group["initial_variability"]) for group in groups]
        self._check_count(len(self.variability_lambdas), "functions", len(groups))
        super().__init__(optimizer, last_epoch)

    @staticmethod
    def _check_count(count: int, what: str, groups: int) -> None:
        if count != groups:
            raise ValueError(f"the scheduler has {count} {what} and the optimizer {groups} parameter groups")

    def step(self, epoch: int | None = None) -> None:
        """Goes to the next epoch (or to `epoch`) and sets the variabilities."""
        self._check_count(len(self.base_variabilities), "initial variabilities", len(self.optimizer.param_groups))
        super().step(epoch)
        values = self.get_variability()
        for group, value in zip(self.optimizer.param_groups, values):
            group["variability"] = value
        self._last_variability = values

    def get_variability(self) -> list[float]:
        """The variability of every group at the present epoch."""
        return [
            base * function(self.last_epoch)
            for base, function in zip(self.base_variabilities, self.variability_lambdas)
        ]

    def get_last_variability(self) -> list[float]:
        """What `step()` set last, one value a group."""
        return list(self._last_variability)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates as they are: this scheduler does not change them."""
        lrs = (group["lr"] for group in self.optimizer.param_groups)
        return [lr.clone() if isinstance(lr, Tensor) else lr for lr in lrs]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer. As in LambdaLR, functions are left out; callable objects are saved by their
        attributes."""
        state = super().state_dict()
        state["variability_lambdas"] = [
            dict(vars(function)) if hasattr(function, "__dict__") and not isinstance(function, FUNCTIONS) else None
            for function in self.variability_lambdas
        ]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what state_dict() returned. The variabilities themselves come with the optimizer's state."""
        state = dict(state_dict)
        for function, saved in zip(self.variability_lambdas, state.pop("variability_lambdas")):
            if saved is not None:
                vars(function).update(saved)
        super().load_state_dict(state)
