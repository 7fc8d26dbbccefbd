"""What every noisy layer is: a module with a mode of its own and a key for each forward pass.

sample   every forward pass draws one key from torch's generator of the device, as nn.Dropout draws its mask:
         manual_seed, fork_rng and activation checkpointing behave as they do there
mean     each noise is replaced by its mean: the deterministic network
fixed    the key is a seed that the user gives: every pass has the same noise for the same place in its output
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..contract.seeds import signed_seed

MODES = ("sample", "mean", "fixed")


def wide(dtype: torch.dtype) -> torch.dtype:
    """In which norms and noise are computed: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def restored_generator(device: torch.device) -> AbstractContextManager[None]:
    """A block after which torch's generators are as they were: for initial weights that are overwritten at once."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def with_values(plain: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """The plain layer, with copies of these as its parameters."""
    with torch.no_grad():
        plain.weight.copy_(weight)
        if bias is not None:
            plain.bias.copy_(bias)
    return plain


def _leaf_of_traces(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same forward, which torch.fx records as one call of its module instead of tracing what is inside."""

    @functools.wraps(forward)
    def recorded(self: NoisyModule, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, fx.Proxy):
            return forward(self, x, *args, **kwargs)
        tracer: Any = x.tracer
        if tracer.root is self:
            raise TypeError(
                f"{type(self).__name__} is a leaf of torch.fx and cannot be traced by itself: trace a model that "
                "contains it, such as nn.Sequential(layer)"
            )
        path = tracer.path_of_module(self)
        return tracer.create_proxy("call_module", path, (x, *args), kwargs)

    return recorded


class NoisyModule(nn.Module):
    """A module with noise. Attributes: mode; seed, of the mode fixed; stream, in which it draws.

    sampling: "local" where each example has noise of its own.
    """

    mode: str = "sample"
    seed: int = 0
    stream: int = 0
    sampling: str = "local"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            cls.forward = _leaf_of_traces(cls.forward)

    def _key(self, device: torch.device) -> Tensor:
        """The key of one forward pass: int64, shape (1,), on the device."""
        if self.mode == "fixed":
            return torch.full((1,), signed_seed(self.seed), dtype=torch.int64, device=device)
        return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device)
