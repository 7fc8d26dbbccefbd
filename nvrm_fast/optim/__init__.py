"""Optimizers: neural variable (every step changes the noise) and with injected noise (it stays)."""

from .langevin import SGLD, PerturbedSGD
from .mixed import mixed_gradient
from .momentum_sam import MomentumSAM
from .neural_variable import NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion
from .perturbation import NeuralVariableOptimizer
from .variability_scheduler import VariabilityScheduler
from .weight_noise import WeightNoise

__all__ = [
    "MomentumSAM",
    "NVRMSGD",
    "NVRMAdam",
    "NVRMAdamW",
    "NVRMLion",
    "NeuralVariableOptimizer",
    "PerturbedSGD",
    "SGLD",
    "VariabilityScheduler",
    "WeightNoise",
    "mixed_gradient",
]
