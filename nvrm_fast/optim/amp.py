"""torch.amp.GradScaler: its scale, and the flag that says that a gradient was infinite.

The kernels divide by the one and heed the other, and write the record of the noise themselves: a step that they skip
leaves nothing that the host would have to take back.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .shards import is_distributed


def scaling_of(optimizer: Any) -> tuple[Tensor | None, Tensor | None]:
    """`grad_scale` and `found_inf`, which a GradScaler leaves on the optimizer for the time of its step."""

    def whole(name: str) -> Tensor | None:
        x = getattr(optimizer, name, None)
        return x.full_tensor() if x is not None and is_distributed(x) else x

    return whole("grad_scale"), whole("found_inf")


def is_skipped_here(found_inf: Tensor | None) -> bool:
    """Whether the host can see at once that the step is to be skipped: the flag lies in its own memory."""
    return found_inf is not None and found_inf.device.type == "cpu" and bool(found_inf != 0)
