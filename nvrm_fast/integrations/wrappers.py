"""Finding the neural variable optimizers inside what libraries wrap around them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch.optim import Optimizer

from ..optim import MomentumSAM, NeuralVariableOptimizer, carried, outer

#: Whatever perturbs weights between steps.
Perturbing = NeuralVariableOptimizer | MomentumSAM

# Where wrappers keep what they wrap: AcceleratedOptimizer, Lightning's and Fabric's optimizers, torch's schedulers and
# the Hugging Face Trainer ("optimizer"); Lightning's Trainer ("optimizers", a list).
WRAPPED = ("optimizer", "optimizers")


def find_optimizers(wrapped: Any) -> list[Perturbing]:
    """The neural variable optimizers, and MomentumSAM, in an optimizer, a wrapper around one, a trainer, or a list of
    these.

    Optimizers of other kinds are passed over, so that a script may switch between NVRMSGD and torch.optim.SGD; nothing
    is found then.

    Raises:
        TypeError: `wrapped` is, or contains, something which neither is nor holds an optimizer, or a schedule-free
            wrapper whose average has noise in it.
    """
    if isinstance(wrapped, Perturbing):
        return [wrapped]
    if outer.kind_of(wrapped) in outer.SCHEDULE_FREE and any(x.is_perturbed() for x in _held(wrapped)):
        raise TypeError(
            f"{type(wrapped).__name__} has averaged weights that carried noise, and no clean ones are left: use the "
            "optimizer without it"
        )
    for name in WRAPPED:
        inner = getattr(wrapped, name, None)
        if inner is not None and not callable(inner):
            return find_optimizers(inner)
    if isinstance(wrapped, Optimizer):
        inner = _held(wrapped)
        if not inner:
            _refuse_hidden_noise(wrapped)
        return inner
    if inner := _held(wrapped):
        return inner
    if isinstance(wrapped, Iterable) and not isinstance(wrapped, (str, bytes)):
        found: list[Perturbing] = []
        for each in wrapped:
            found += [one for one in find_optimizers(each) if all(one is not other for other in found)]
        return found
    raise TypeError(f"expected an optimizer, a wrapper around one, a trainer or a list of these; got {type(wrapped)}")


def _held(wrapper: Any) -> list[Perturbing]:
    """Those in any attribute of an object, whatever its name (base_optimizer, original_optimizer, base, ...)."""
    found: list[Perturbing] = []
    for value in getattr(wrapper, "__dict__", {}).values():
        if isinstance(value, Optimizer):
            found += [one for one in find_optimizers(value) if all(one is not other for other in found)]
    return found


def _refuse_hidden_noise(optimizer: Optimizer) -> None:
    """Raises TypeError where an optimizer of another kind holds parameters that carry noise: whose it is is unknown."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            if carried.carries_noise(param):
                raise TypeError(
                    f"{type(optimizer).__name__} holds parameters that carry noise, and no neural variable optimizer "
                    "is found in it: pass the optimizer that put the noise on"
                )


@contextlib.contextmanager
def clean_weights(wrapped: Any) -> Iterator[None]:
    """Inside the block the weights are clean; afterwards, even after an exception, bit for bit as before.

        with clean_weights(optimizer):
            evaluate(model)
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pt")

    What is saved so has clean weights and resumes bit for bit: load both, then call `optimizer.train()`.

    Args:
        wrapped: as for `find_optimizers`. Optimizers that are not neural variable are left alone.

    Raises:
        TypeError: as `find_optimizers`.
    """
    with contextlib.ExitStack() as stack:
        for optimizer in find_optimizers(wrapped):
            stack.enter_context(optimizer.denoised())
        yield
