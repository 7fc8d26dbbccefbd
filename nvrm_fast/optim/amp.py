"""torch.amp.GradScaler: its scale and its verdict, and what the host believes until it knows the verdict."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .shards import is_distributed

#: What the host notes in a parameter's state without asking the device.
BELIEVED = ("coat_scale", "coat_noise", "coat_seed", "coat_numel", "momentum_buffer")


def scaling_of(optimizer: Any) -> tuple[Tensor | None, Tensor | None]:
    """`grad_scale` and `found_inf`, which a GradScaler leaves on the optimizer for the time of its step."""

    def whole(name: str) -> Tensor | None:
        x = getattr(optimizer, name, None)
        return x.full_tensor() if x is not None and is_distributed(x) else x

    return whole("grad_scale"), whole("found_inf")


def is_skipped_here(found_inf: Tensor | None) -> bool:
    """Whether the host can see at once that the step is to be skipped: the verdict lies in its own memory."""
    return found_inf is not None and found_inf.device.type == "cpu" and bool(found_inf != 0)


class Belief:
    """What the host believed of some parameters before a step that may turn out to have been skipped."""

    def __init__(self, states: list[dict[str, Any]]) -> None:
        # Plain numbers, and a momentum buffer that is there or not: its contents are the kernel's affair.
        self._before = [(state, {key: state[key] for key in BELIEVED if key in state}) for state in states]

    def has_changed(self) -> bool:
        def differs(a: Any, b: Any) -> bool:
            return a is not b and (isinstance(a, Tensor) or isinstance(b, Tensor) or a != b)

        return any(differs(state.get(key), before.get(key)) for state, before in self._before for key in BELIEVED)

    def take_back(self) -> None:
        for state, before in self._before:
            for key in BELIEVED:
                state.pop(key, None)
            state.update(before)


class Verdicts:
    """Steps on a GPU whose verdict the host does not wait for.

    The kernels skip such a step by themselves, and the host goes on as if it were done. Only where its record of the
    coats has changed by that is there something to take back, once the verdict is here.
    """

    def __init__(self) -> None:
        self._open: list[tuple[Tensor, torch.cuda.Event | None, Belief]] = []

    @property
    def are_open(self) -> bool:
        return bool(self._open)

    def expect(self, found_inf: Tensor, belief: Belief) -> None:
        """To be called after the step."""
        if not belief.has_changed():
            return
        event = None
        if found_inf.device.type == "cuda":
            verdict = torch.empty_like(found_inf, device="cpu", pin_memory=True)
            verdict.copy_(found_inf, non_blocking=True)
            event = torch.cuda.Event()
            # The copy is on this stream, whichever device is the current one.
            event.record(torch.cuda.current_stream(found_inf.device))
        else:
            verdict = found_inf.to("cpu", copy=True)
        self._open.append((verdict, event, belief))

    def settle(self) -> None:
        """To be called before the record is read."""
        while self._open:
            verdict, event, belief = self._open.pop()
            if event is not None:
                event.synchronize()
            if bool(verdict != 0):
                belief.take_back()
