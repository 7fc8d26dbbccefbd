"""Steps that a CUDA graph captures: what its replays would get wrong is refused while it is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured on the current stream; does not initialize CUDA."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def refuse_mode_change(call: str) -> None:
    """Raises RuntimeError during a capture: `call` asks the device what the parameters carry, which a capture cannot
    answer."""
    if is_capturing():
        raise RuntimeError(f"{call} inside the capture of a CUDA graph: call it before the capture, or between replays")


def check_step(
    groups: Iterable[tuple[int, dict[str, Any], list[Tensor]]],
    is_ready: Callable[[dict[str, Any], Tensor], bool],
    name: Callable[[dict[str, Any], Tensor], object],
) -> None:
    """Raises RuntimeError for a step that replays could not repeat.

    Args:
        groups: position, group and parameters of each group that is stepped.
        is_ready: whether a parameter's state is complete for a step.
        name: what messages call a parameter.
    """
    for position, group, params in groups:
        for param in params:
            if not is_ready(group, param):
                raise RuntimeError(
                    f"this step makes state for parameter {name(group, param)} inside the capture of a CUDA graph, and "
                    "every replay would empty it again: call step() once outside the capture first"
                )
        if not group.get("capturable"):
            raise RuntimeError(
                f"parameter group {position} is captured in a CUDA graph with capturable=False: its learning rate and "
                "variability would stay as they are now in every replay, whatever a scheduler does. Make the optimizer "
                "with capturable=True, and give lr and variability as tensors where they are to change"
            )
