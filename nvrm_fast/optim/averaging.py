"""torch's, timm's and diffusers' averages fed with noisy weights: said once, with the line that mends it."""

from __future__ import annotations

import functools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from . import carried


class _Average(NamedTuple):
    """A class that takes weights into an average, if it has been imported."""

    module: str
    name: str
    method: str
    call: str  # as users write it

    def find(self) -> Any:
        """The class, or None: nothing is imported for it."""
        return getattr(sys.modules.get(self.module), self.name, None)


_AVERAGES = (
    _Average("torch.optim.swa_utils", "AveragedModel", "update_parameters", "average.update_parameters(model)"),
    _Average("timm.utils.model_ema", "ModelEmaV3", "update", "model_ema.update(model, step)"),
    _Average("timm.utils.model_ema", "ModelEmaV2", "update", "model_ema.update(model)"),
    _Average("diffusers.training_utils", "EMAModel", "step", "ema.step(model.parameters())"),
)

#: Optimizers that perturb weights by something else than noise (MomentumSAM): they say whether they do now.
perturbing: weakref.WeakSet[Any] = weakref.WeakSet()

_update = AveragedModel.update_parameters


def _parameters(source: Any) -> Iterator[Tensor]:
    """Of a model, or of an iterable of them that may be gone through more than once."""
    if isinstance(source, nn.Module):
        yield from source.parameters()
    elif isinstance(source, Iterable):
        yield from (param for param in source if isinstance(param, Tensor))


def _is_moved(params: list[Tensor]) -> bool:
    some = {id(param) for param in params}
    return any(
        id(param) in some
        for optimizer in list(perturbing)
        if optimizer.is_perturbed()
        for group in optimizer.param_groups
        for param in group["params"]
    )


def _watched(average: _Average, cls: type, own: Callable[..., Any]) -> Callable[..., Any]:
    """The class's method for as long as nobody has averaged noisy weights with it in this process."""

    @functools.wraps(own)
    def watched(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(source, nn.Module) and isinstance(source, Iterator):
            source = list(source)  # model.parameters() can be gone through once
        params = list(_parameters(source))
        if any(map(carried.carries_noise, params)) or _is_moved(params):
            _restore(average, cls)
            warnings.warn(
                f"{average.name}.{average.method}() takes in weights that carry noise, so that the average is noisy, "
                f"too: write `with optimizer.denoised(): {average.call}`",
                stacklevel=2,
            )
        return own(self, source, *args, **kwargs)

    return watched


#: The methods that are watched, and those that were there before, by class.
_methods: dict[type, tuple[Callable[..., Any], Callable[..., Any]]] = {}
#: Each class is watched once in a process.
_watched_before: list[type] = []


def watch() -> None:
    """From the first noise on. Whoever has put another function in its place keeps that."""
    for average in _AVERAGES:
        cls = average.find()
        if cls is None or cls in _watched_before:
            continue
        own = getattr(cls, average.method, None)
        if own is None or (cls is AveragedModel and own is not _update):
            continue
        watched = _watched(average, cls, own)
        setattr(cls, average.method, watched)
        _methods[cls] = watched, own
        _watched_before.append(cls)


def _restore(average: _Average, cls: type) -> None:
    watched, own = _methods.pop(cls, (None, None))
    if watched is not None and getattr(cls, average.method) is watched:
        setattr(cls, average.method, own)


def unwatch() -> None:
    """Puts all methods back."""
    for average in _AVERAGES:
        cls = average.find()
        if cls is not None:
            _restore(average, cls)
