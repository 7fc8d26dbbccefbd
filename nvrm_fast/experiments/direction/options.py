"""The options that the studies of direction noise share, and their presets."""

from __future__ import annotations

from dataclasses import dataclass

from nvrm_fast.experiments import data
from nvrm_fast.experiments.settings import AT_LEAST_ONE, POSITIVE, Checked, option

#: quick: minutes on two cores; full: as the thesis; tiny: seconds, to see that everything runs.
PRESETS = ("quick", "full", "tiny")
LAYERS = option(
    (256, 256, 512),
    "hidden units of the fully connected network",
    type=int,
    nargs="+",
    metavar="UNITS",
    check=(lambda units: len(units) > 0 and all(unit >= 2 for unit in units), "2 or more for each layer"),
)
THESIS_LAYERS = (1024, 1024, 2048)


@dataclass(frozen=True)
class DirectionSettings(Checked):
    """What every study that trains networks needs. Adam; the learning rate falls to zero over the second half."""

    preset: str = option("quick", "named values of all other options", choices=PRESETS)
    data: str = option("mnist-5000", "data set", choices=tuple(data.LOADERS))
    data_dir: str | None = option(None, "folder with the data set's official files", metavar="FOLDER")
    seeds: int = option(
        3, "how many seeds: training images, initialisation, batches and noise", type=int, check=AT_LEAST_ONE
    )
    epochs: int = option(30, "passes over the training images", type=int, check=AT_LEAST_ONE)
    batch_size: int = option(100, "images a step", type=int, check=AT_LEAST_ONE)
    lr: float = option(1e-3, "Adam's learning rate during the first half", type=float, check=POSITIVE)
    samples: int = option(30, "networks an ensemble has", type=int, check=AT_LEAST_ONE)
    device: str = option("cpu", "torch device, such as cpu or cuda")
    threads: int = option(1, "CPU threads; the last digits of all numbers depend on it", type=int, check=AT_LEAST_ONE)


def full(**more) -> dict:
    """The thesis's training: 200 epochs on a full data set that the user has."""
    return {"data": "mnist", "epochs": 200, "samples": 50} | more


def tiny(**more) -> dict:
    """As small as can be."""
    return {"epochs": 1, "seeds": 1, "samples": 2, "batch_size": 50} | more
