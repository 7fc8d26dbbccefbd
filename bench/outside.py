"""Optimizers of other packages that train under weight noise; None where they are not installed.

IVON (Shen et al. 2024) samples Gaussian weights before the gradient is taken and goes back to their mean in its step.
Both are timed together, because NVRM's step does both.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

ESS = 1e4  # effective sample size: the noise has about the deviation 1 / sqrt(ess)


def has_ivon() -> bool:
    try:
        import ivon  # noqa: F401
    except ImportError:
        return False
    return True


class SampledIvon(Optimizer):
    """IVON's sampling and step as one step(); the gradients are already there and are kept."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        import ivon

        self.optimizer = ivon.IVON(list(params), lr=lr, ess=ESS)
        # torch.optim's constructor is left out: this one only passes on.
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def step(self, closure: None = None) -> None:
        """Sample, gather the gradient taken there, back to the mean, update."""
        with self.optimizer.sampled_params(train=True):
            pass
        self.optimizer.step()
