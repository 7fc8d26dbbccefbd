"""Hugging Face Accelerate: evaluation on clean weights, and states that are clean and resume bit for bit."""

from __future__ import annotations

import os
from typing import Any

from .wrappers import clean_weights, find_optimizers

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError("nvrm_fast.integrations.accelerate needs Accelerate: pip install accelerate") from error

#: `with denoised(optimizer):` for what `accelerator.prepare` returned; the same as `clean_weights`.
denoised = clean_weights


def save_state(accelerator: Accelerator, output_dir: str | os.PathLike[str] | None = None, **kwargs: Any) -> str:
    """`accelerator.save_state(...)` on clean weights; the record of the noise lies in the optimizers' state.

    Args:
        accelerator: it knows the optimizers that it prepared.
        output_dir, kwargs: those of `accelerator.save_state`. Returns what it returns.
    """
    with clean_weights(accelerator._optimizers):
        return accelerator.save_state(output_dir, **kwargs)


def load_state(accelerator: Accelerator, input_dir: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
    """`accelerator.load_state(...)`, then the noise goes on, bit for bit what was on when it was saved.

    After a plain `accelerator.load_state` the weights are clean and `optimizer.train()` does the second part.
    Arguments: those of `accelerator.load_state`.
    """
    accelerator.load_state(input_dir, **kwargs)
    for optimizer in find_optimizers(accelerator._optimizers):
        optimizer.train()
