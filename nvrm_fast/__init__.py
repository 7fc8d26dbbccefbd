"""nvrm_fast: neural variability at no cost. Noise is a function, not a tensor.

from nvrm_fast import NVRMSGD

optimizer = NVRMSGD(model.parameters(), lr=0.1, momentum=0.9, variability=0.05)
...                              # train as ever
with optimizer.denoised():       # evaluate and save on clean weights
    evaluate(model)
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .noise import noise
from .ops.registry import use_backend
from .optim import (
    NVRMSGD,
    SGLD,
    MomentumSAM,
    NVRMAdam,
    NVRMAdamW,
    NVRMLion,
    PerturbedSGD,
    WeightNoise,
    mixed_gradient,
)

if TYPE_CHECKING:
    from .probe.suggest import suggest_variability

__all__ = [
    "MomentumSAM",
    "NVRMSGD",
    "NVRMAdam",
    "NVRMAdamW",
    "NVRMLion",
    "PerturbedSGD",
    "SGLD",
    "WeightNoise",
    "__version__",
    "mixed_gradient",
    "noise",
    "suggest_variability",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """The probe is imported by whoever asks for it."""
    if name == "suggest_variability":
        from .probe.suggest import suggest_variability

        return suggest_variability
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
