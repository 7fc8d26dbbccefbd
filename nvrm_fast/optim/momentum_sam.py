"""Momentum-SAM: gradients ahead along the momentum, around any optimizer that keeps one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import averaging, capture
from .checks import FLOAT32_LIMIT, check_number
from .perturbation import NeuralVariableOptimizer
from .shards import is_distributed
from .uninterrupted import uninterrupted
from .weight_noise import set_groups

#: Where optimizers keep their momentum.
DIRECTIONS = ("momentum_buffer", "exp_avg")
#: Options of a group beside `rho`: the factor of the momentum that its weights carry, of how many of its parameters,
#: and in evaluation mode the factor that they carry afterwards.
ASCENT, ASCENDED, SUSPENDED = "ascent", "ascended", "suspended_ascent"
#: In a parameter's state: the clean weights of bfloat16 and float16; the perturbed ones of others in evaluation mode.
CLEAN, KEPT = "clean_param", "suspended_param"
#: Added to the norm, as in the published code.
TINY = 1e-12


class _Moved(NamedTuple):
    """A parameter and the direction that it is moved along."""

    param: Tensor
    direction: Tensor
    state: dict[str, Any]

    def keeps_clean(self) -> bool:
        return self.param.dtype in (torch.bfloat16, torch.float16)

    def at(self, weights: Tensor, factor: Tensor) -> Tensor:
        """Weights + factor * direction, rounded once to the weights' dtype."""
        return weights.clone().addcmul_(self.direction, factor.to(weights.device))

    def perturb(self, factor: Tensor) -> None:
        if self.keeps_clean():
            self.state[CLEAN] = self.param.detach().clone()
        self.param.addcmul_(self.direction, factor.to(self.param.device), value=-1)

    def restore(self, factor: Tensor) -> None:
        """Takes the perturbation off. What somebody wrote meanwhile counts as perturbed weights."""
        clean = self.state.get(CLEAN)
        if clean is None:
            self.param.addcmul_(self.direction, factor.to(self.param.device))
        else:  # exact where nobody wrote
            untouched = self.param == self.at(clean, -factor)
            self.param.copy_(torch.where(untouched, clean, self.at(self.param, factor)))
            del self.state[CLEAN]


class MomentumSAM(Optimizer):
    """Sharpness-aware training at the cost of the plain optimizer (Becker et al. 2024, arXiv 2401.12033, algorithm 1).

        optimizer = MomentumSAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.3)

    Between steps the weights are w - rho * m / ||m||: gradients are taken ahead, where the momentum m leads. Before the
    wrapped optimizer's step the perturbation comes off, after it the new momentum's goes on. ||m|| is the norm over all
    parameters of all groups. SAM needs a second forward and backward pass a step; this needs none, a pass over the
    parameters before the step and two after it (the norm), and no memory but for bfloat16 and float16 parameters, whose
    clean weights are kept (2 bytes each). float32 and float64 weights are clean up to the roundings of one subtraction
    and one addition a step, as in the published code.

    It is an optimizer to schedulers, scalers and checkpoints: `param_groups` and `state` are the wrapped optimizer's,
    with `rho` among a group's options, and `state_dict()` is its state dict, which resumes bit for bit. Evaluate and
    save on clean weights: `with optimizer.denoised():`, between `eval()` and `train()`, or after `denoise()`.

    A closure is evaluated once, at the perturbed weights. Do not call the wrapped optimizer's step() any more.

    Args:
        optimizer: any torch.optim.Optimizer that keeps a momentum of each parameter's shape, as `momentum_buffer` (SGD,
            Muon) or `exp_avg` (Adam, AdamW and many others).
        rho: length of the perturbation of all parameters together, in the units of the weights (default: 0.3, the
            published code's for SGD; AdamW has 1 there). 0 is the plain optimizer. May be changed between steps and be
            a group's own.

    Raises:
        TypeError: what is no optimizer, or carries noise already; a momentum that is not of its parameter's shape.
        ValueError: rho out of range; SGD without momentum; parameters of a DTensor (the norm over shards is not built).
        RuntimeError, by the first step: an optimizer without momentum; its weights are clean then.
    """

    optimizer: Optimizer
    _is_being_made = False

    def __init__(self, optimizer: Optimizer, *, rho: float = 0.3) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer)}")
        if isinstance(optimizer, (NeuralVariableOptimizer, MomentumSAM)):
            raise TypeError(
                f"{type(optimizer).__name__} perturbs the weights already: wrap a plain optimizer; noise may go around "
                "it, WeightNoise(MomentumSAM(...))"
            )
        check_number(rho, "rho", high=FLOAT32_LIMIT)
        for group in optimizer.param_groups:
            _check_group({"rho": rho, **group})
        self.optimizer = optimizer
        groups = optimizer.param_groups
        self._is_being_made = True
        super().__init__(list(groups), {"rho": rho})
        del self._is_being_made
        set_groups(optimizer, groups)
        self._complete_groups()
        averaging.perturbing.add(self)

    # Groups and state are the wrapped optimizer's.

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if not self._is_being_made:
            set_groups(self.optimizer, groups)

    @property
    def state(self) -> Any:
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        if not self._is_being_made:
            self.optimizer.state = state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the wrapped optimizer's; `rho` is this object's where the group has none."""
        if not self._is_being_made:
            _check_group({**self.defaults, **param_group})
            self.optimizer.add_param_group(param_group)
            self._complete_groups()

    def _complete_groups(self) -> None:
        for group in self.param_groups:
            for key, value in (("rho", self.defaults["rho"]), (ASCENT, 0.0), (ASCENDED, 0), (SUSPENDED, None)):
                group.setdefault(key, value)

    # One step.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The wrapped optimizer's step on clean weights, then the new perturbation; returns the closure's loss.

        Raises RuntimeError in evaluation mode, while a CUDA graph is captured, and where the optimizer keeps no
        momentum; its own errors leave the weights clean.
        """
        if capture.is_capturing():
            raise RuntimeError("MomentumSAM.step() cannot be captured in a CUDA graph: call it outside")
        if self._is_evaluating():
            raise RuntimeError(
                "step() while the perturbation is off for evaluation: call optimizer.train() first, or leave the "
                "denoised() block"
            )
        self._complete_groups()
        for group in self.param_groups:
            _check_group(group)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad(), uninterrupted():
            self._restore()
        result = self.optimizer.step()
        with torch.no_grad():
            self._perturb()
        return result if closure is None else loss

    def _moved(self, group: dict[str, Any]) -> list[_Moved]:
        moved = []
        for param in group["params"]:
            state = self.state.get(param, {})
            direction = next((state[key] for key in DIRECTIONS if state.get(key) is not None), None)
            if direction is None:
                continue
            if not isinstance(direction, Tensor) or direction.shape != param.shape or not direction.is_floating_point():
                raise TypeError(
                    f"{type(self.optimizer).__name__} keeps a momentum that is no floating-point tensor of its "
                    "parameter's shape: MomentumSAM cannot use it (optimizers with 8-bit states, for instance)"
                )
            moved.append(_Moved(param, direction, state))
        return moved

    def _perturb(self) -> None:
        by_group = [(group, self._moved(group)) for group in self.param_groups]
        every = [moved for _, some in by_group for moved in some]
        if not every:
            if any(param.grad is not None for group in self.param_groups for param in group["params"]):
                raise RuntimeError(
                    f"{type(self.optimizer).__name__} keeps no momentum ({' or '.join(DIRECTIONS)} in its state), "
                    "which MomentumSAM needs: take SGD with momentum, Adam or AdamW"
                )
            return
        averaging.watch()
        norms = [torch.linalg.vector_norm(each.direction, dtype=_norm_dtype(each.direction)) for each in every]
        norm = torch.linalg.vector_norm(torch.stack([each.to(norms[0].device) for each in norms]))
        with uninterrupted():
            for group, some in by_group:
                factor = group["rho"] / (norm + TINY)
                group[ASCENDED] = len(some)
                group[ASCENT] = factor if some else 0.0
                for moved in some:
                    moved.perturb(factor)

    def _restore(self) -> None:
        for group in self.param_groups:
            if not isinstance(group[ASCENT], Tensor):
                continue
            some = self._moved(group)
            if len(some) != group[ASCENDED]:
                raise RuntimeError(
                    "the momentum that the weights are moved along has gone from the optimizer's state, so that the "
                    "perturbation cannot be taken off: call denoise() before changing the state"
                )
            for moved in some:
                moved.restore(group[ASCENT])
            group[ASCENT] = 0.0

    # Clean weights.

    def _is_evaluating(self) -> bool:
        return any(group.get(SUSPENDED) is not None for group in self.param_groups)

    def is_perturbed(self) -> bool:
        """Whether the weights carry a perturbation now; waits for no device."""
        return any(isinstance(group.get(ASCENT), Tensor) for group in self.param_groups)

    @torch.no_grad()
    def denoise(self) -> None:
        """Takes the perturbation off until the next step puts the new one on."""
        self._complete_groups()
        with uninterrupted():
            for group in self.param_groups:
                group[SUSPENDED] = None
                for param in group["params"]:
                    self.state.get(param, {}).pop(KEPT, None)
            self._restore()

    @contextlib.contextmanager
    def denoised(self) -> Iterator[None]:
        """Inside the block the weights are clean; afterwards, even after an exception, bit for bit as before.

        Costs a copy of the float32 and float64 parameters for the time of the block. A value that is written in the
        block stays, under the perturbation.
        """
        if self._is_evaluating():
            yield
            return
        self.eval()
        try:
            yield
        finally:
            self.train()

    @torch.no_grad()
    def eval(self) -> None:
        """Takes the perturbation off until `train()`; twice changes nothing. step() is refused meanwhile.

        The mode is part of the state dict: model and optimizer saved in it have clean weights, and after `train()` the
        run goes on bit for bit.
        """
        self._complete_groups()
        if self._is_evaluating():
            return
        for group in self.param_groups:
            if isinstance(group[ASCENT], Tensor):
                for moved in self._moved(group):
                    if not moved.keeps_clean():
                        moved.state[KEPT] = moved.param.detach().clone()
        factors = [group[ASCENT] for group in self.param_groups]
        with uninterrupted():
            self._restore()
            for group, factor in zip(self.param_groups, factors):
                group[SUSPENDED] = factor

    @torch.no_grad()
    def train(self) -> None:
        """Puts on again what `eval()` took off; twice changes nothing."""
        with uninterrupted():
            for group in self.param_groups:
                factor = group.get(SUSPENDED)
                if isinstance(factor, Tensor):
                    for moved in self._moved(group):
                        self._put_on_again(moved, factor)
                    group[ASCENT] = factor
                group[SUSPENDED] = None

    def _put_on_again(self, moved: _Moved, factor: Tensor) -> None:
        param, kept = moved.param, moved.state.get(KEPT)
        if kept is None:
            moved.perturb(factor)
        else:  # exact where nobody wrote
            untouched = param == moved.at(kept, factor)
            param.copy_(torch.where(untouched, kept, moved.at(param, -factor)))
            del moved.state[KEPT]

    # Copies and checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, with `rho` and the perturbation's factor among the groups' options."""
        self._complete_groups()
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The wrapped optimizer's. The bare optimizer's loads, too: the weights are clean then. Load the weights that
        were saved with it."""
        rhos = [group.get("rho", self.defaults["rho"]) for group in self.param_groups]
        self.optimizer.load_state_dict(state_dict)
        for group, rho in zip(self.param_groups, rhos):
            group.setdefault("rho", rho)
        self._complete_groups()

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "optimizer": self.optimizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        averaging.perturbing.add(self)

    def __repr__(self) -> str:
        return f"MomentumSAM({self.optimizer!r})"


def _norm_dtype(direction: Tensor) -> torch.dtype:
    return direction.dtype if direction.dtype == torch.float64 else torch.float32


def _check_group(group: dict[str, Any]) -> None:
    check_number(group["rho"], "rho", high=FLOAT32_LIMIT)
    if group.get("momentum") == 0 and "betas" not in group:
        raise ValueError("momentum is 0, and MomentumSAM moves the weights along the momentum: give momentum=0.9")
    params = group["params"]
    for param in [params] if isinstance(params, Tensor) else params:
        if isinstance(param, Tensor) and is_distributed(param):
            raise ValueError(
                "MomentumSAM needs the momentum's norm over all shards, which is not built: use it with replicated "
                "parameters (DistributedDataParallel)"
            )
