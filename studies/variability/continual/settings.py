"""The settings that the studies of continual learning share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from studies.settings import Count, NotNegative, Positive
from studies.study import ImageStudy
from studies.variability.continual.training import Recipe


@dataclass(frozen=True, kw_only=True)
class ContinualStudy(ImageStudy):
    """What every study that learns tasks one after the other needs."""

    seeds: Count = 3
    """how many seeds: permutations, initialization, batches and noise"""
    tasks: Annotated[int, Field(ge=2)] = 5
    """how many tasks are learned one after the other"""
    width: Count = 512
    """ReLUs of each of the two hidden layers"""
    # 15 passes over mnist-5000 are 240 steps; the paper's one pass over MNIST is 235.
    epochs: Count = 15
    """passes over the images of a task of permuted pixels"""
    batch_size: Count = 256
    """images a step"""
    lr: Positive = 1e-3
    """learning rate, the same in every step"""
    weight_decay: NotNegative = 1e-4
    """L2 penalty with permuted pixels"""
    variability: Positive = 0.03
    """b of the curves, the scale of NVRM's weight noise"""
    optimizer_state: Literal["kept", "new"] = "kept"
    """Adam's moments when a new permutation comes: as they are, or zero"""

    def recipe(self) -> Recipe:
        """How tasks of permuted pixels are trained."""
        return Recipe(
            self.width, self.epochs, self.batch_size, self.lr, self.weight_decay, self.optimizer_state == "new"
        )


def paper(**more: Any) -> dict[str, Any]:
    """Appendix C.2: MNIST that the user has, one epoch a task, ten seeds."""
    return {"data": "mnist", "width": 1024, "epochs": 1, "seeds": 10} | more


def tiny(**more: Any) -> dict[str, Any]:
    """As small as can be."""
    return {"tasks": 2, "width": 16, "epochs": 1, "seeds": 1, "batch_size": 50} | more
