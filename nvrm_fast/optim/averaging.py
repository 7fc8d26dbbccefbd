"""torch.optim.swa_utils.AveragedModel fed with noisy weights: said once, with the line that mends it."""

from __future__ import annotations

import functools
import warnings

from torch import nn
from torch.optim.swa_utils import AveragedModel

from . import carried

_update = AveragedModel.update_parameters


@functools.wraps(_update)
def _watched(self: AveragedModel, model: nn.Module) -> None:
    """AveragedModel.update_parameters for as long as nobody has averaged noisy weights in this process."""
    if any(carried.carries_noise(param) for param in model.parameters()):
        unwatch()
        warnings.warn(
            "AveragedModel.update_parameters() takes in weights that carry noise, so that the average is noisy, too: "
            "write `with optimizer.denoised(): average.update_parameters(model)`",
            stacklevel=2,
        )
    _update(self, model)


def watch() -> None:
    """From the first noise on. Whoever has put another function in its place keeps that."""
    if not _watched_before and AveragedModel.update_parameters is _update:
        AveragedModel.update_parameters = _watched  # type: ignore[method-assign]  # it calls the one that was there
        _watched_before.append(True)


def unwatch() -> None:
    if AveragedModel.update_parameters is _watched:
        AveragedModel.update_parameters = _update  # type: ignore[method-assign]


_watched_before: list[bool] = []
