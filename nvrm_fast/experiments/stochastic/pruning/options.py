"""The options of the pruning study and their presets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from nvrm_fast.experiments import data
from nvrm_fast.experiments.settings import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Checked, option
from nvrm_fast.experiments.stochastic.pruning.networks import NETWORKS

BASELINE, SE_SNN = "baseline", "SE-SNN"
_SHARE = (lambda share: 0 < share < 1, "more than 0 and less than 1")


def _all(test, words: str) -> tuple:
    return lambda values: len(values) > 0 and all(math.isfinite(v) and test(v) for v in values), f"{words} for each"


@dataclass(frozen=True)
class PruningSettings(Checked):
    """Everything that decides the numbers of a pruning study."""

    preset: str = option("quick", "named values of all other options", choices=("quick", "full", "tiny"))
    data: str = option("mnist-5000", "data set", choices=tuple(data.LOADERS))
    data_dir: str | None = option(None, "folder with the data set's official files", metavar="FOLDER")
    network: str = option("lenet5", "network", choices=tuple(NETWORKS))
    width: float = option(1.0, "what the network's numbers of neurons are multiplied by", type=float, check=POSITIVE)
    methods: tuple[str, ...] = option(
        (BASELINE, SE_SNN), "what is trained before pruning", nargs="+", metavar="NAME", choices=(BASELINE, SE_SNN)
    )
    weights: tuple[float, ...] = option(
        (1e-4,),
        "weights of the regularizer; each is trained with each margin",
        type=float,
        nargs="+",
        metavar="WEIGHT",
        check=_all(lambda weight: weight >= 0, "0 or more"),
    )
    margins: tuple[float, ...] = option(
        (4.0,), "margins b", type=float, nargs="+", metavar="B", check=_all(lambda margin: True, "a finite number")
    )
    over: str = option(
        "neuron",
        "what the regularizer averages first: equation 5, 6 or 7",
        choices=("neuron", "sample", "element"),
    )
    initial_deviation: float | None = option(
        None, "sigma at the start, everywhere the same (default: at random, as in the paper; VGG needs a small one)",
        type=float, check=POSITIVE,
    )  # fmt: skip
    noise_rate: float = option(
        0.0, "share of training labels flipped, each class to one other", type=float,
        check=(lambda rate: 0 <= rate < 1, "from 0 up to, but not including, 1"),
    )  # fmt: skip
    epochs: int = option(20, "passes over the training images before pruning", type=int, check=AT_LEAST_ONE)
    batch_size: int = option(64, "images a step", type=int, check=AT_LEAST_ONE)
    lr: float = option(
        1e-3, "Adam's learning rate before pruning, falling over the second half", type=float, check=POSITIVE
    )
    target: float = option(
        0.0266, "share of the multiplications at which the loop stops (the paper's 0.061 of 2.293 million)",
        type=float, check=_SHARE,
    )  # fmt: skip
    at_once: float = option(
        0.03, "share of the remaining neurons that one turn of the loop removes, at least one; 0: the paper's one",
        type=float, check=(lambda share: 0 <= share < 1, "from 0 up to, but not including, 1"),
    )  # fmt: skip
    flops_weight: float = option(
        1.0, "how much of the share of multiplications that a neuron's removal saves is taken off its importance",
        type=float, check=NOT_NEGATIVE,
    )  # fmt: skip
    updates: int = option(30, "steps of fine-tuning in one turn", type=int, check=AT_LEAST_ONE)
    tune_lr: float = option(0.01, "learning rate of fine-tuning, SGD with momentum 0.9", type=float, check=POSITIVE)
    last_epochs: int = option(
        5, "passes of fine-tuning after the loop, the learning rate falling to zero", type=int, check=NOT_NEGATIVE
    )
    every: int = option(4, "turns between two measured points", type=int, check=AT_LEAST_ONE)
    validation: float = option(0.1, "share of the training images held out", type=float, check=_SHARE)
    tolerance: float = option(
        0.01, "validation error above the unpruned network's that the table's smallest network may have",
        type=float, check=NOT_NEGATIVE,
    )  # fmt: skip
    seeds: int = option(
        3, "how many seeds: initialisation, flipped and held-out images, batches, noise", type=int, check=AT_LEAST_ONE
    )
    device: str = option("cpu", "torch device, such as cpu or cuda")
    threads: int = option(1, "CPU threads; the last digits of all numbers depend on it", type=int, check=AT_LEAST_ONE)

    #: quick: minutes on two cores; full: all of MNIST; tiny: seconds, to see that everything runs.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {"data": "mnist", "epochs": 60, "at_once": 0.0, "updates": 100, "last_epochs": 20, "seeds": 5},
        "tiny": {
            "epochs": 1, "seeds": 1, "batch_size": 50, "updates": 1, "at_once": 0.2, "every": 2, "target": 0.2,
            "last_epochs": 1,
        },
    }  # fmt: skip
