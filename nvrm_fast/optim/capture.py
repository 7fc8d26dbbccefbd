"""CUDA graphs: a replay repeats what the host decided when the step was captured. Where that would go wrong, it is
refused here.

The step counters lie on the device, so that every replay draws fresh noise. All else is fixed: the scales of the noise
that comes off and of the noise that goes on, learning rates, whether a momentum buffer is a first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import Members, NoisyOptimizer

STEP_FIRST = "call step() outside the capture, with the options that the captured step is to have, then capture"


def is_capturing() -> bool:
    """Whether work on the current stream is being captured in a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def refuse(what: str) -> None:
    """Raises RuntimeError inside a capture, for calls that must not be replayed."""
    if is_capturing():
        raise RuntimeError(
            f"{what} inside the capture of a CUDA graph: every replay would repeat it, and the optimizer's record of "
            "the noise would not follow; call it between replays"
        )


def check_step(optimizer: NoisyOptimizer, groups: Members) -> None:
    """Raises RuntimeError, naming the parameter or the option, for a step that replays would not repeat rightly."""
    if optimizer._verdicts.are_open:
        raise RuntimeError(
            f"this step cannot be captured in a CUDA graph: it is not known yet whether the GradScaler skipped the "
            f"last one; {STEP_FIRST}"
        )
    for group, members in groups:
        _check_options(group)
        noise_to_come = optimizer._noise_to_come(group)
        for member in members:
            state = optimizer.state.get(member.param, {})
            name = optimizer._name(group, member.position)
            if not optimizer._is_complete(group, member.param, state) or (
                group.get("momentum") and "momentum_buffer" not in state
            ):
                raise RuntimeError(
                    f"this step cannot be captured in a CUDA graph: it is the first one of parameter {name} (or the "
                    f"first one with these options), and every replay would be a first one again; {STEP_FIRST}"
                )
            noise_on = (state["coat_scale"], state["coat_noise"], state["coat_seed"])
            if not optimizer.keep_noise and noise_on != noise_to_come and (noise_on[0] or noise_to_come[0]):
                raise RuntimeError(
                    f"this step cannot be captured in a CUDA graph: the noise on parameter {name} (variability, "
                    f"distribution, seed: {noise_on}) is not the noise that the step puts on ({noise_to_come}), so "
                    f"every replay would take off noise that is not there; {STEP_FIRST}"
                )


def _check_options(group: dict[str, Any]) -> None:
    if group.get("denoise_every") is not None:
        raise RuntimeError(
            "a step with denoise_every cannot be captured in a CUDA graph: the host decides by the step counter which "
            "steps leave the weights clean; set denoise_every to None, or call denoise() between replays and then "
            "step() outside the capture"
        )
    for option, value in group.items():
        if any(isinstance(x, Tensor) for x in (value if isinstance(value, tuple) else (value,))):
            raise RuntimeError(
                f"a step whose {option} is a tensor cannot be captured in a CUDA graph: the host reads it, so that "
                f"every replay would use its present value; make {option} a number, and capture again when it changes"
            )


class ReplayWatch:
    """Notices that a captured step was replayed while the noise was off: replays are not told of that."""

    def __init__(self) -> None:
        self.is_needed = False  # whether a step was captured
        self._counters: list[tuple[Tensor, Tensor]] = []

    def start(self, optimizer: NoisyOptimizer) -> None:
        """The noise comes off."""
        if self.is_needed:
            self._counters = [(s["step"], s["step"].clone()) for s in optimizer.state.values() if "step" in s]

    def stop(self) -> None:
        """Noise goes on again. Raises RuntimeError if there were steps since start(); waits for the device."""
        if self._counters and not is_capturing():
            if not all(torch.equal(now, then) for now, then in self._counters):
                raise RuntimeError(
                    "a captured CUDA graph was replayed while the noise was off (inside denoised(), between eval() and "
                    "train(), or after denoise()): it took off noise that was not on, so that the weights are wrong "
                    "now. Load weights and optimizer of before, and replay only while the noise is on"
                )
            self._counters = []
