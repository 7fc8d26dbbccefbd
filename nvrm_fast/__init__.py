"""nvrm_fast: neural variability at no cost. Noise is a function, not a tensor.

from nvrm_fast import NVRMSGD

optimizer = NVRMSGD(model.parameters(), lr=0.1, momentum=0.9, variability=0.05)
...                              # train as ever
with optimizer.denoised():       # evaluate and save on clean weights
    evaluate(model)
"""

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
    "use_backend",
]
