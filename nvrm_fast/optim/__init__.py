"""Optimizers: neural variable (the noise is a coat that every step changes) and with injected noise (it stays)."""

from .coat import NeuralVariableOptimizer
from .injected import SGLD, PerturbedSGD
from .neural_variable import NVRMSGD, NVRMAdam, NVRMAdamW
from .variability_scheduler import VariabilityScheduler

__all__ = [
    "NVRMSGD",
    "NVRMAdam",
    "NVRMAdamW",
    "NeuralVariableOptimizer",
    "PerturbedSGD",
    "SGLD",
    "VariabilityScheduler",
]
