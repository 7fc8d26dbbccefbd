"""Finding the neural variable optimizers inside what libraries wrap around them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch.optim import Optimizer

from ..optim import NeuralVariableOptimizer

# Where wrappers keep what they wrap: AcceleratedOptimizer, Lightning's and Fabric's optimizers, torch's schedulers and
# the Hugging Face Trainer ("optimizer"); Lightning's Trainer ("optimizers", a list).
WRAPPED = ("optimizer", "optimizers")


def find_optimizers(wrapped: Any) -> list[NeuralVariableOptimizer]:
    """The neural variable optimizers in an optimizer, a wrapper around one, a trainer, or a list of such.

    Optimizers of other kinds are passed over, so that a script may switch between NVRMSGD and torch.optim.SGD; nothing
    is found then.

    Raises:
        TypeError: `wrapped` is, or contains, something which neither is nor holds an optimizer, or a neural variable
            optimizer in torch's ZeroRedundancyOptimizer.
    """
    if isinstance(wrapped, NeuralVariableOptimizer):
        return [wrapped]
    for name in WRAPPED:
        inner = getattr(wrapped, name, None)
        if inner is not None and not callable(inner):
            return find_optimizers(inner)
    if isinstance(getattr(wrapped, "optim", None), NeuralVariableOptimizer):
        raise TypeError(
            f"{type(wrapped).__name__} gives every process the optimizer of its own part of the parameters only, and "
            "no process can take the noise off all of them: use fully_shard (FSDP2)"
        )
    if isinstance(wrapped, Optimizer):
        return []
    if isinstance(wrapped, Iterable) and not isinstance(wrapped, (str, bytes)):
        found: list[NeuralVariableOptimizer] = []
        for each in wrapped:
            found += [one for one in find_optimizers(each) if all(one is not other for other in found)]
        return found
    raise TypeError(f"expected an optimizer, a wrapper around one, a trainer or a list of these; got {type(wrapped)}")


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
