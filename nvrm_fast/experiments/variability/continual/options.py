"""The options that the studies of continual learning share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nvrm_fast.experiments import data
from nvrm_fast.experiments.settings import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Checked, option
from nvrm_fast.experiments.variability.continual.training import Recipe

#: quick: minutes on two cores; paper: as appendix C.2; tiny: seconds, to see that everything runs.
PRESETS = ("quick", "paper", "tiny")
TWO_OR_MORE = (lambda value: value >= 2, "2 or more")
ALL_POSITIVE = (lambda values: all(math.isfinite(value) and value > 0 for value in values), "more than 0 for each")


@dataclass(frozen=True)
class ContinualSettings(Checked):
    """What every study that learns tasks one after the other needs."""

    preset: str = option("quick", "named values of all other options", choices=PRESETS)
    data: str = option("mnist-5000", "data set", choices=tuple(data.LOADERS))
    data_dir: str | None = option(None, "folder with the data set's official files", metavar="FOLDER")
    seeds: int = option(
        3, "how many seeds: permutations, initialisation, batches and noise", type=int, check=AT_LEAST_ONE
    )
    tasks: int = option(5, "how many tasks are learned one after the other", type=int, check=TWO_OR_MORE)
    width: int = option(512, "ReLUs of each of the two hidden layers", type=int, check=AT_LEAST_ONE)
    # 15 passes over mnist-5000 are 240 steps; the paper's one pass over MNIST is 235.
    epochs: int = option(15, "passes over the images of a task of permuted pixels", type=int, check=AT_LEAST_ONE)
    batch_size: int = option(256, "images a step", type=int, check=AT_LEAST_ONE)
    lr: float = option(1e-3, "learning rate, the same in every step", type=float, check=POSITIVE)
    weight_decay: float = option(1e-4, "L2 penalty with permuted pixels", type=float, check=NOT_NEGATIVE)
    variability: float = option(0.03, "b of the curves, the scale of NVRM's weight noise", type=float, check=POSITIVE)
    optimizer_state: str = option(
        "kept", "Adam's moments when a new permutation comes: as they are, or zero", choices=("kept", "new")
    )
    device: str = option("cpu", "torch device, such as cpu or cuda")
    threads: int = option(2, "CPU threads; the last digits of all numbers depend on it", type=int, check=AT_LEAST_ONE)

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
