"""The coat: noise that the weights wear between steps, and the ways to take it off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..noise import signed_seed
from .base import NoisyOptimizer, check_denoise_every, check_number


class NeuralVariableOptimizer(NoisyOptimizer):
    """Between steps the parameters hold clean weights + b * eps (NVRM paper, section 3, equations 10 and 11).

    Evaluate and save on clean weights: inside `with optimizer.denoised():`, between `optimizer.eval()` and
    `optimizer.train()`, or after `optimizer.denoise()`. What is evaluated or saved with the coat on is noisy.

    Model and optimizer saved in evaluation mode: the weights are clean, and the optimizer's state remembers the coats.
    Loaded again the optimizer is in evaluation mode; after `train()` the run goes on bit for bit.
    """

    # Evaluation mode. What to wear again lies in the state, so that it is saved, copied and loaded with it: under
    # "resting_scale" the scale of the coat, under "noisy_param" the noisy value where no master can give it back.
    _resting = False

    def _noise_scale(self, group: dict[str, Any]) -> float:
        return float(group["variability"])

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number(group["variability"], "variability")
        check_denoise_every(group["denoise_every"])

    def step(self, closure=None):
        """Takes the coat off, applies the rule to the clean weights, puts a new coat on; all in one pass.

        closure: reevaluates the model (on the noisy weights) and returns the loss. Returns the loss, or None.
        Raises RuntimeError in evaluation mode and for sparse gradients, before anything is written.
        """
        if self._resting:
            raise RuntimeError(
                "step() while the coat is off for evaluation: call optimizer.train() first, or leave the "
                "denoised() block"
            )
        return super().step(closure)

    @torch.no_grad()
    def denoise(self) -> None:
        """Takes the coat off until the next step, which starts from the clean weights and puts a new one on.

        In place the clean weights are exact up to the rounding of one addition and one subtraction; with master
        weights they are exact.
        """
        for state in self.state.values():  # in evaluation mode: nothing to put on again
            state.pop("resting_scale", None)
            state.pop("noisy_param", None)
        self._change_coats(put_on=None)

    @contextlib.contextmanager
    def denoised(self) -> Iterator[None]:
        """Inside the block the parameters are clean; afterwards, even after an exception, bit for bit as before.

        Costs one copy of the in-place parameters for the time of the block (none with master weights), so that
        training goes on exactly as if nobody had looked.
        """
        if self._resting:
            yield
            return
        self.eval()
        try:
            yield
        finally:
            self.train()

    @torch.no_grad()
    def eval(self) -> None:
        """Takes the coat off until `train()`; the same as entering `denoised()`. Calling it twice changes nothing."""
        if self._resting:
            return
        resting = []
        for param, state in self.state.items():
            if state.get("coat_scale"):
                noisy = None if "master_param" in state else param.detach().clone()
                resting.append((state, state["coat_scale"], noisy))
        self._change_coats(put_on=None)
        for state, scale, noisy in resting:
            state["resting_scale"] = scale
            if noisy is not None:
                state["noisy_param"] = noisy
        self._resting = True

    @torch.no_grad()
    def train(self) -> None:
        """Puts on again what `eval()` took off. Calling it twice changes nothing."""
        if not self._resting:
            return
        self._resting = False
        worn = {}
        for param, state in self.state.items():
            scale, noisy = state.pop("resting_scale", 0.0), state.pop("noisy_param", None)
            if noisy is not None:
                param.copy_(noisy)
                state["coat_scale"] = scale
            elif scale:
                worn[param] = scale
        if worn:
            self._change_coats(put_on=worn)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called by load_state_dict, copy and pickle: the mode is that of the state which comes in."""
        super().__setstate__(state)
        self._resting = any("resting_scale" in kept for kept in self.state.values())

    def _change_coats(self, put_on: dict[Tensor, float] | None) -> None:
        """put_on: masters' parameters and the scales to wear again; None: every coat off."""
        buckets: dict[tuple, list[tuple[Tensor, int]]] = {}
        for group in self.param_groups:
            for param, stream in zip(group["params"], group["streams"]):
                state = self.state.get(param, {})
                if (param in put_on) if put_on is not None else state.get("coat_scale"):
                    key = (
                        param.device, param.dtype, state["coat_noise"], state["coat_seed"],
                        "master_param" in state, group["backend"],
                    )  # fmt: skip
                    buckets.setdefault(key, []).append((param, stream))
        for (_, _, noise, seed, has_master, backend), members in buckets.items():
            params = [param for param, _ in members]
            states = [self.state[param] for param in params]
            scales = [0.0 if put_on is None else put_on[param] for param in params]
            ops.change_coat_(
                params,
                [state["master_param"] for state in states] if has_master else [],
                [state["step"] for state in states],
                [stream for _, stream in members],
                [0] * len(params),
                scales,
                signed_seed(seed),
                noise,
                [state["coat_scale"] for state in states],
                signed_seed(seed),
                noise,
                backend=backend,
            )
            for state, scale in zip(states, scales):
                state["coat_scale"] = scale
