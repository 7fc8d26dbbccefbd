"""The modes of a model's noisy layers, which are their own and not train or eval (see base.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ..contract.names import inner_names
from ..contract.seeds import signed_seed
from ..contract.streams import assign_streams
from .base import MODES, NoisyModule


def noisy_modules(model: nn.Module) -> list[tuple[str, NoisyModule]]:
    """The noisy layers of a model with their names; one that occurs twice is listed once."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, NoisyModule)]


def set_noise_mode(model: nn.Module, mode: str, seed: int | None = None) -> None:
    """Puts every noisy layer of a model into a mode: "sample", "mean" or "fixed" (which needs a seed of 64 bits).

    Layers get streams by their names, so that layers of the same shape differ under one seed: by the names within the
    innermost module that contains all noisy layers, without what wrappers (torch.compile, DataParallel, AveragedModel)
    add. So a seed means the same noise whatever holds the model. Raises ValueError.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
    if (seed is None) == (mode == "fixed"):
        raise ValueError("the mode fixed needs a seed, and no other mode takes one")
    if seed is not None:
        signed_seed(seed)
    layers = noisy_modules(model)
    streams = assign_streams(inner_names(model, [name for name, _ in layers]), len(layers), set())
    for (_, layer), stream in zip(layers, streams):
        layer.mode, layer.stream = mode, stream
        if seed is not None:
            layer.seed = seed


@contextlib.contextmanager
def noise_mode(model: nn.Module, mode: str, seed: int | None = None) -> Iterator[None]:
    """set_noise_mode for the length of a block; afterwards every layer is as it was."""
    before = [(layer, (layer.mode, layer.seed, layer.stream)) for _, layer in noisy_modules(model)]
    set_noise_mode(model, mode, seed)
    try:
        yield
    finally:
        for layer, attributes in before:
            layer.mode, layer.seed, layer.stream = attributes
