"""Stochastic networks under adversarial attack (SE-SNN, section 4.2 and Figure 2).

An undefended network, deep VIB and SE-SNN (the element-wise max-entropy regularizer, equation 7) on images in [0, 1],
trained on clean images or also on FGS samples; untargeted FGS over epsilons from 0 to 0.5, and CW-L2 on the networks of
normal training, both with expected gradients over several draws of the noise. A closer look asks whether a defence
withstands or hides its gradient (Athalye et al., 2018): one draw against many, the mean network attacked, transfer from
an undefended network, many steps (PGD), and epsilons at which no defence can hold.

At one seed all networks see the same batches. No setting was chosen by the test set.

Written to --out: table.md, attacks.png, results.json, and runs.jsonl, from which a stopped study goes on.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import nn

from nvrm_fast import nn as noisy
from nvrm_fast.experiments import StudyError, report, settings
from nvrm_fast.experiments import data as images
from nvrm_fast.experiments.data import ImageData
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Checked, option
from nvrm_fast.experiments.stochastic.attacks import drawing as attack_drawing
from nvrm_fast.experiments.stochastic.attacks import tables as attack_tables
from nvrm_fast.experiments.stochastic.attacks import training as attack_training
from nvrm_fast.experiments.stochastic.attacks.training import BASELINE, METHODS, NORMAL, TRAININGS, Recipe

NAME = "stochastic-attacks"
HELP = "stochastic layers against adversarial attacks (SE-SNN, Figure 2)"
_EPSILON = (lambda epsilons: all(0 <= epsilon <= 1 for epsilon in epsilons), "from 0 to 1")


@dataclass(frozen=True)
class AttackSettings(Checked):
    """Options of the study. The sizes of attacks are explained in ``attack_measures``."""

    preset: str = option("quick", "named values of all other options", choices=("quick", "full", "tiny"))
    data: str = option("mnist-5000", "data set", choices=tuple(images.LOADERS))
    data_dir: str | None = option(None, "folder with the data set's official files", metavar="FOLDER")
    methods: tuple[str, ...] = option(METHODS, "networks", nargs="+", metavar="NAME", choices=METHODS)
    trainings: tuple[str, ...] = option(TRAININGS, "ways of training", nargs="+", metavar="WAY", choices=TRAININGS)
    seeds: int = option(3, "how many seeds: initialisation, batches, noise, attacks", type=int, check=AT_LEAST_ONE)
    hidden: tuple[int, ...] = option(
        (256, 256, 64), "hidden units; the last layer is stochastic", type=int, nargs="+", metavar="UNITS",
        check=(lambda units: len(units) > 0 and all(unit >= 1 for unit in units), "1 or more for each layer"),
    )  # fmt: skip
    epochs: int = option(20, "passes over the training images", type=int, check=AT_LEAST_ONE)
    batch_size: int = option(100, "images a step", type=int, check=AT_LEAST_ONE)
    lr: float = option(1e-3, "Adam's learning rate", type=float, check=POSITIVE)
    weight: float = option(0.1, "of SE-SNN's regularizer", type=float, check=NOT_NEGATIVE)
    margin: float = option(
        math.log(16), "b of equation 7, for log sigma", type=float, check=(math.isfinite, "a finite number")
    )
    beta: float = option(0.01, "of deep VIB's divergence", type=float, check=NOT_NEGATIVE)
    train_epsilon: float = option(
        0.5, "adversarial training draws its epsilons from 0 to this", type=float, check=NOT_NEGATIVE
    )
    draws: int = option(10, "draws of the noise for every gradient of an attack", type=int, check=AT_LEAST_ONE)
    epsilons: tuple[float, ...] = option(
        (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5), "strengths of FGS", type=float, nargs="+", metavar="EPSILON",
        check=_EPSILON,
    )  # fmt: skip
    look_epsilons: tuple[float, ...] = option(
        (0.1, 0.3, 0.5), "strengths of the closer look", type=float, nargs="+", metavar="EPSILON", check=_EPSILON
    )
    look_images: int = option(300, "test images of the closer look", type=int, check=AT_LEAST_ONE)
    pgd_steps: int = option(40, "steps of PGD", type=int, check=AT_LEAST_ONE)
    cw_images: int = option(100, "test images of CW-L2", type=int, check=AT_LEAST_ONE)
    cw_steps: int = option(100, "steps of each search of CW-L2", type=int, check=AT_LEAST_ONE)
    cw_searches: int = option(5, "searches of CW-L2 for its weight", type=int, check=AT_LEAST_ONE)
    cw_stepsize: float = option(0.1, "Adam's step of CW-L2", type=float, check=POSITIVE)
    device: str = option("cpu", "torch device, such as cpu or cuda")
    threads: int = option(1, "CPU threads; the last digits of all numbers depend on it", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "data": "mnist", "seeds": 20, "hidden": (1024, 1024, 256), "look_images": 1000, "cw_images": 1000,
            "cw_steps": 500, "cw_searches": 9,
        },
        "tiny": {
            "seeds": 1, "hidden": (16, 8), "epochs": 1, "draws": 2, "epsilons": (0.0, 0.3), "look_epsilons": (0.3,),
            "look_images": 20, "pgd_steps": 2, "cw_images": 10, "cw_steps": 3, "cw_searches": 2,
        },
    }  # fmt: skip

    @property
    def recipe(self) -> Recipe:
        """How networks are made and trained."""
        return Recipe(
            self.hidden, self.epochs, self.batch_size, self.lr, self.weight, self.margin, self.beta, self.train_epsilon
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=AttackSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Train and attack every network, print the tables and write the results."""
    chosen = settings.from_arguments(arguments, AttackSettings)
    measures = _measures()
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = in_the_box(images.load(chosen.data, chosen.data_dir), chosen.device)
    record = Record(folder, NAME, chosen, extending=("methods", "trainings"))
    started = time.perf_counter()
    runs = attack_all(data, chosen, record, measures.measure)
    text = attack_tables.describe(runs, chosen.epsilons)
    content = {
        "study": NAME,
        "settings": asdict(chosen),
        "versions": report.versions(chosen.device) | {"foolbox": version("foolbox")},
        "seconds_of_this_call": time.perf_counter() - started,
        "runs": runs,
    }
    report.write_json(folder / "results.json", content)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    layers = "-".join(map(str, chosen.hidden))
    title = f"{data.name}, {layers}, {chosen.epochs} epochs, gradients over {chosen.draws} draws, {chosen.seeds} seeds"
    attack_drawing.draw(runs, chosen.epsilons, folder / "attacks.png", title=title)
    print(f"\n{text}\n\nwritten: {folder / 'attacks.png'}, {folder / 'table.md'}, {folder / 'results.json'}")


def _measures() -> Any:
    """The module that attacks; the other studies do without foolbox."""
    try:
        from nvrm_fast.experiments.stochastic.attacks import measures as attack_measures
    except ModuleNotFoundError as missing:
        raise StudyError(
            f'the attacks need the package {missing.name}; get it by: pip install "nvrm_fast[demo]"'
        ) from None
    return attack_measures


def in_the_box(data: ImageData, device: torch.device | str) -> ImageData:
    """float32 images in [0, 1], the box of the attacks; networks take them as they are, not standardized."""
    return replace(
        data,
        train_images=data.train_images.to(device, torch.float32) / 255,
        train_labels=data.train_labels.to(device),
        test_images=data.test_images.to(device, torch.float32) / 255,
        test_labels=data.test_labels.to(device),
    )


def attack_all(
    data: ImageData, chosen: AttackSettings, record: Record, measure: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """All runs: dictionaries with seed, training, method and what ``one_run`` gives."""
    places = list(itertools.product(range(chosen.seeds), chosen.trainings, chosen.methods))
    baselines: dict[tuple[str, int], nn.Module] = {}
    runs = []
    with progress(len(places), "networks") as bar:
        for seed, training, method in places:
            bar.set_description(f"{method}, {training} training, seed {seed}")
            place = {"seed": seed, "training": training, "method": method}
            runs.append(place | record.run(place, partial(one_run, data, chosen, measure, baselines, **place)))
            bar.update()
    return runs


def one_run(
    data: ImageData, chosen: AttackSettings, measure: Callable[..., dict[str, Any]],
    baselines: dict[tuple[str, int], nn.Module], *, seed: int, training: str, method: str,
) -> dict[str, Any]:  # fmt: skip
    """Train one network and attack it by ``attack_measures.measure``. CW-L2 attacks networks of normal training only.

    baselines: the last undefended network, kept for transferred attacks; where it is missing it is trained again, to
    the same weights.
    """
    began = time.perf_counter()
    network, seconds = attack_training.train(data, chosen.recipe, method, training, seed)
    if method == BASELINE:
        baselines.clear()
        baselines[training, seed] = network
    else:
        noisy.set_regularizer(network, None)  # attacks are no passes of training

    def surrogate() -> nn.Module:
        if (training, seed) not in baselines:
            baselines.clear()
            baselines[training, seed] = attack_training.train(data, chosen.recipe, BASELINE, training, seed)[0]
        return baselines[training, seed]

    result = {
        "weights": sum(parameter.numel() for parameter in network.parameters()),
        "log_deviation": attack_training.log_deviation(network, data.test_images),
        "training_seconds": seconds,
    }
    result |= measure(
        network, data.test_images, data.test_labels, chosen, seed=seed, with_cw=training == NORMAL,
        surrogate=None if method == BASELINE else surrogate,
    )  # fmt: skip
    return result | {"seconds": time.perf_counter() - began}
