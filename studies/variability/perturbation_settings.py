"""The settings of weight-perturbation, which the study and its report share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from studies.settings import SOME, Count, NotNegative, Positive
from studies.variability.training import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation(TrainingSettings):
    """The settings of weight-perturbation."""

    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.02, 0.05, 0.07)
    """b that NVRM-SGD trains with, one or more"""
    scales: Annotated[tuple[Positive, ...], SOME] = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2)
    """noise on trained weights, before the test images"""
    samples: Count = 16
    """perturbed networks for each of --scales"""
    train_scales: Annotated[tuple[Positive, ...], SOME] = (0.02, 0.05, 0.1)
    """noise on trained weights, before the training images: b of delta and the bounds"""
    train_samples: Annotated[int, Field(ge=2)] = 16
    """perturbed networks for each of --train-scales"""
