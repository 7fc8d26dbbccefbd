"""The settings that the studies of direction noise share, and their presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from studies.settings import SOME, Count, Positive
from studies.study import ImageStudy

#: Hidden units of a fully connected network.
Hidden = Annotated[tuple[Annotated[int, Field(ge=2)], ...], SOME]
LAYERS, THESIS_LAYERS = (256, 256, 512), (1024, 1024, 2048)


@dataclass(frozen=True, kw_only=True)
class DirectionStudy(ImageStudy):
    """What every study that trains networks needs. Adam; the learning rate falls to zero over the second half."""

    epochs: Count = 30
    """passes over the training images"""
    batch_size: Count = 100
    """images a step"""
    lr: Positive = 1e-3
    """Adam's learning rate during the first half"""
    samples: Count = 30
    """networks an ensemble has"""


def paper(**more: Any) -> dict[str, Any]:
    """The thesis's training: 200 epochs on a full data set that the user has."""
    return {"data": "mnist", "epochs": 200, "samples": 50} | more


def tiny(**more: Any) -> dict[str, Any]:
    """As small as can be."""
    return {"epochs": 1, "seeds": 1, "samples": 2, "batch_size": 50} | more
