"""Options of studies: one table for defaults, checks, help texts and the command line; here also that of the studies
that train a classifier on labels, right or wrong."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

import torch

from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.experiments import StudyError, data, label_flips, networks
from nvrm_fast.experiments.augmentation import AUGMENTATIONS


def option(
    default: Any, help: str, *, type: Callable = str, check: tuple[Callable, str] | None = None, **more: Any
) -> Any:
    """A field with its command line; ``check`` is a test of the value and, in words, what passes it."""
    return field(default=default, metadata={"check": check, "argparse": {"help": help, "type": type, **more}})


AT_LEAST_ONE = (lambda value: value >= 1, "1 or more")
NOT_NEGATIVE = (lambda value: math.isfinite(value) and value >= 0, "0 or more")
POSITIVE = (lambda value: math.isfinite(value) and value > 0, "more than 0")


@dataclass(frozen=True)
class Checked:
    """Base of the tables of options. Wrong values raise ``StudyError`` at once.

    ``PRESETS`` are named sets of values for ``--preset``, where a table has such a field.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}

    def __post_init__(self) -> None:
        for option in fields(self):
            value, check = getattr(self, option.name), option.metadata["check"]
            choices = option.metadata["argparse"].get("choices")
            flag = command_line_name(option)
            for one in value if isinstance(value, tuple) else (value,):
                if choices and one not in choices:
                    raise StudyError(f"{flag} is {one!r}: choose one of {', '.join(choices)}")
            if value is not None and check and not check[0](value):
                raise StudyError(f"{flag} is {value}: choose {check[1]}")
        try:
            torch.empty(0, device=getattr(self, "device", "cpu"))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise StudyError(f"--device {self.device} cannot be used here ({reason}): try --device cpu") from None


@dataclass(frozen=True)
class Settings(Checked):
    """Everything that decides the numbers of one training of the NVRM paper's studies.

    Wrong values raise ``StudyError`` at once.
    The defaults of network, lr, weight_decay and variability are what the rule of label-noise-sweep chose.
    """

    data: str = option("mnist-5000", "data set", choices=tuple(data.LOADERS))
    data_dir: str | None = option(None, "folder with the data set's official files", metavar="FOLDER")
    noise_kind: str = option("asymmetric", "how labels are flipped", choices=tuple(label_flips.KINDS))
    noise_rate: float = option(
        0.4,
        "probability that a training label is flipped",
        type=float,
        check=(lambda rate: 0 <= rate < 1, "from 0 up to, but not including, 1"),
    )
    network: str = option("cnn", "network", choices=tuple(networks.NETWORKS))
    width: int | None = option(
        None,
        "hidden units of the mlp (default 256), or the first channels of the others (defaults: cnn 8, mobilenetv2 32, "
        "vgg16 and resnet34 64)",
        type=int,
        check=AT_LEAST_ONE,
    )
    variability: float = option(0.05, "b, the scale of the weight noise", type=float, check=NOT_NEGATIVE)
    noise: str = option("gaussian", "distribution of the weight noise", choices=tuple(DISTRIBUTIONS))
    lr: float = option(0.03, "learning rate at the start", type=float, check=POSITIVE)
    lr_drops: tuple[int, ...] | None = option(
        None,
        "epochs after which the learning rate drops (default: after each third, as in the paper; none: --lr-drops 0)",
        type=int,
        nargs="+",
        metavar="EPOCH",
        check=(lambda drops: all(drop >= 0 for drop in drops), "epochs counted from 1, or a single 0 for no drop"),
    )
    lr_drop_factor: float = option(0.1, "what a drop multiplies the learning rate by", type=float, check=POSITIVE)
    momentum: float = option(
        0.9,
        "momentum (IVON: beta1)",
        type=float,
        check=(lambda momentum: 0 <= momentum < 1, "from 0 up to, but not including, 1"),
    )
    weight_decay: float = option(1e-2, "L2 penalty", type=float, check=NOT_NEGATIVE)
    epochs: int = option(36, "passes over the training images", type=int, check=AT_LEAST_ONE)
    batch_size: int = option(64, "images a step", type=int, check=AT_LEAST_ONE)
    augmentation: str = option("none", "what is done to training images", choices=tuple(AUGMENTATIONS))
    adam_lr: float = option(3e-3, "learning rate of Adam and NVRM-Adam at the start", type=float, check=POSITIVE)
    sam_rho: float = option(0.1, "radius of SAM's climb, where it is among the optimizers", type=float, check=POSITIVE)
    ivon_lr: float = option(0.3, "learning rate of IVON, where it is among the optimizers", type=float, check=POSITIVE)
    ivon_hessian: float = option(0.5, "IVON's Hessian at the start", type=float, check=POSITIVE)
    seeds: int = option(
        5, "how many seeds: initialisation, flipped labels, batch order and weight noise", type=int, check=AT_LEAST_ONE
    )
    device: str = option("cpu", "torch device, such as cpu or cuda")
    threads: int = option(1, "CPU threads; the last digits of all numbers depend on it", type=int, check=AT_LEAST_ONE)

    @property
    def drops(self) -> list[int]:
        """The epochs, counted from 1, after which the learning rate drops."""
        if self.lr_drops is None:
            return sorted({third for third in (self.epochs // 3, 2 * self.epochs // 3) if third > 0})
        return sorted({drop for drop in self.lr_drops if drop > 0})


def command_line_name(option: Field) -> str:
    """``--data-dir`` for the field ``data_dir``."""
    return "--" + option.name.replace("_", "-")


def add_arguments(
    parser: argparse.ArgumentParser, *, without: tuple[str, ...] = (), kind: type[Checked] = Settings
) -> None:
    """Add the options of a table to a parser, all but the fields named in ``without``."""
    for option in fields(kind):
        if option.name not in without:
            more = dict(option.metadata["argparse"])
            default = option.default
            if kind.PRESETS and option.name != "preset":
                # Left out, it is the preset's.
                default = argparse.SUPPRESS
                values = {name: preset.get(option.name, option.default) for name, preset in kind.PRESETS.items()}
                more["help"] += f" ({'; '.join(f'{name}: {_words(value)}' for name, value in values.items())})"
            elif default is not None:
                more["help"] += " (default: %(default)s)"
            parser.add_argument(command_line_name(option), default=default, **more)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def from_arguments(arguments: argparse.Namespace, kind: type[Checked] = Settings) -> Any:
    """The settings of a parsed command line; fields without an option keep the preset's value, or their default.

    Raises:
        StudyError: for a value out of range or a device that is not there.
    """
    given = {option.name: getattr(arguments, option.name) for option in fields(kind) if hasattr(arguments, option.name)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return kind(**(kind.PRESETS.get(given.get("preset"), {}) | given))
