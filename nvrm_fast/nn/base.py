"""What every noisy layer is: a module with a mode of its own and a key for each forward pass.

sample   every forward pass draws one key from torch's generator of the device, as nn.Dropout draws its mask:
         manual_seed, fork_rng and activation checkpointing behave as they do there
mean     each noise is replaced by its mean: the deterministic network
fixed    the key is a seed that the user gives: every pass has the same noise for the same place in its output
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from ..contract.seeds import signed_seed

MODES = ("sample", "mean", "fixed")


def wide(dtype: torch.dtype) -> torch.dtype:
    """In which norms and noise are computed: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def restored_generator(device: torch.device) -> AbstractContextManager[None]:
    """A block after which torch's generators are as they were: for initial weights that are overwritten at once."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


class NoisyModule(nn.Module):
    """A module with noise. Attributes: mode; seed, of the mode fixed; stream, in which it draws.

    sampling: "local" where each object has noise of its own.
    """

    mode: str = "sample"
    seed: int = 0
    stream: int = 0
    sampling: str = "local"

    def _key(self, device: torch.device) -> Tensor:
        """The key of one forward pass: int64, shape (1,), on the device."""
        if self.mode == "fixed":
            return torch.full((1,), signed_seed(self.seed), dtype=torch.int64, device=device)
        return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device)
