"""Section 4.2 of the thesis, measured: does noise that objects share keep the gradient's variance from falling?

Weights are fixed. A mini-batch is chosen, the noise is drawn twice, and half the squared distance of both gradients
estimates without bias the trace of the gradient's covariance matrix that the noise alone causes, over all parameters;
it is averaged over mini-batches. So for several mini-batch sizes M, for direction noise on the weights with shared,
flipout and local sampling, and on the signal. Independent noise makes it fall as 1 / M (equation 42); a covariance
between objects keeps it up. That covariance is measured too, on the objects' losses at the largest mini-batch.

All samplings are measured at the same weights and mini-batches: the weights of the initialisation, and those after
training with local sampling. Written to --out: table.md, gradients.png, results.json, and runs.jsonl, from which a
stopped study goes on.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from nvrm_fast.experiments import StudyError, report, settings
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.direction import drawing, fit, kinds, networks
from nvrm_fast.experiments.direction.options import LAYERS, THESIS_LAYERS, DirectionSettings, full, tiny
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, option

NAME = "direction-gradients"
HELP = "the gradient's variance by shared, flipout and local sampling (thesis, section 4.2)"
PLACES = ("shared", "flipout", "local", "signal")
LAWS = ("rot-n", "rot-half", "rot-n-magn-n", "rot-b", "proj", "tang", "vmf")
STATES = ("start", "trained")


@dataclass(frozen=True)
class GradientSettings(DirectionSettings):
    """Options of the study."""

    seeds: int = option(2, "how many seeds: initialisation, batches and noise", type=int, check=AT_LEAST_ONE)
    epochs: int = option(5, "of training before the second measurement", type=int, check=AT_LEAST_ONE)
    hidden: tuple[int, ...] = LAYERS
    laws: tuple[str, ...] = option(
        ("rot-n", "rot-half", "proj"),
        "noises; each at the middle strength of direction-tables",
        nargs="+",
        metavar="LAW",
        choices=LAWS,
    )
    batches: tuple[int, ...] = option(
        (4, 16, 64, 256),
        "mini-batch sizes",
        type=int,
        nargs="+",
        metavar="IMAGES",
        check=(lambda sizes: len(sizes) > 0 and min(sizes) >= 2, "2 or more for each size"),
    )
    draws: int = option(6, "pairs of draws at the largest size; more at smaller ones", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": full(
            hidden=THESIS_LAYERS,
            seeds=5,
            epochs=20,
            draws=200,
            laws=LAWS,
            batches=(4, 16, 64, 256, 1024, 4096),
        ),
        "tiny": tiny(hidden=(8, 8), laws=("proj",), batches=(2, 8), draws=2),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=GradientSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the results."""
    chosen = settings.from_arguments(arguments, GradientSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    if max(chosen.batches) > len(data.train_labels):
        raise StudyError(
            f"--batches {max(chosen.batches)} is more than the {len(data.train_labels)} training images of {data.name}"
        )
    record = Record(folder, NAME, chosen, extending=("laws",))
    runs = []
    problems = list(itertools.product(range(chosen.seeds), chosen.laws, STATES))
    with progress(len(problems), "networks") as bar:
        for seed, law, state in problems:
            bar.set_description(f"{law}, {state}, seed {seed}")
            place = {"law": law, "state": state, "seed": seed}
            result = record.run(place, partial(one_network, data, chosen, **place))
            runs += [place | measured for measured in result]
            bar.update()
    text = describe(runs, chosen.batches)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    content = {"study": NAME, "settings": asdict(chosen), "versions": report.versions(chosen.device), "runs": runs}
    report.write_json(folder / "results.json", content)
    drawing.draw_gradients(
        runs, chosen.batches, folder / "gradients.png", title=f"{data.name}: variance of the gradient"
    )
    print(f"\n{text}\n\nwritten: {folder / 'gradients.png'}, {folder / 'table.md'}, {folder / 'results.json'}")


def one_network(data: ImageData, chosen: GradientSettings, *, law: str, state: str, seed: int) -> list[dict[str, Any]]:
    """The measurements of all samplings at one network's weights."""
    strengths = kinds.LAWS[law].strengths
    noise = kinds.LAWS[law].noise(*strengths[len(strengths) // 2])
    plain = networks.fully_connected(data.shape, data.classes, chosen.hidden, seed=seed)
    trained = kinds.converted(plain, sampling="local", **noise).to(data.train_images.device)
    if state == "trained":
        fit.train(
            trained, data.train_images, data.train_labels, epochs=chosen.epochs, batch_size=chosen.batch_size,
            lr=chosen.lr, seed=seed,
        )  # fmt: skip
    largest = max(chosen.batches)
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed + 2**31))
    order = order.to(data.train_labels.device)
    images, labels = data.train_images[order], data.train_labels[order]
    found = []
    for place in PLACES:
        network = _with_sampling(plain, trained, place, noise)
        with fit.seeded(labels.device, seed + 2**34):
            measured = []
            for size in chosen.batches:
                # Small mini-batches differ most from each other, and cost least.
                pairs = math.ceil(chosen.draws * math.sqrt(largest / size))
                measured.append(gradient_variance(network, images, labels, size, pairs, seed))
            variance, covariance = loss_covariance(network, images[:largest], labels[:largest], 10 * chosen.draws)
        found.append(
            {
                "place": place,
                "variance": [both[0] for both in measured],
                "squared_mean": [both[1] for both in measured],
                "loss_variance": variance,
                "loss_covariance": covariance,
            }
        )
    return found


def _with_sampling(plain: nn.Sequential, trained: nn.Sequential, place: str, noise: dict[str, Any]) -> nn.Sequential:
    """A network with the weights of a trained one and its noise put elsewhere."""
    network = kinds.converted(plain, **({} if place == "signal" else {"sampling": place, **noise}))
    network.load_state_dict(trained.state_dict())
    if place == "signal":
        network = kinds.in_front_of_layers(network, lambda: noisy.SignalNoise(**noise))
    return network.to(next(trained.parameters()).device)


def gradient_variance(
    network: nn.Module, images: Tensor, labels: Tensor, size: int, pairs: int, seed: int
) -> tuple[float, float]:
    """Trace of the covariance of a mini-batch loss's gradient over draws of the noise, and the squared length of its
    mean; both without bias, averaged over mini-batches of a size that follow from the seed, one a pair of draws."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(seed + 2**35)
    variance = squared_mean = 0.0
    for _ in range(pairs):
        batch = torch.randperm(len(labels), generator=generator)[:size].to(labels.device)
        first, second = (
            torch.cat(
                [
                    part.flatten()
                    for part in torch.autograd.grad(cross_entropy(network(images[batch]), labels[batch]), parameters)
                ]
            )
            for _ in range(2)
        )
        variance += 0.5 * float((first - second).double().square().sum()) / pairs
        squared_mean += float((first.double() * second).sum()) / pairs
    return variance, squared_mean


@torch.no_grad()
def loss_covariance(network: nn.Module, images: Tensor, labels: Tensor, draws: int) -> tuple[float, float]:
    """Over draws of the noise: mean variance of an object's loss, and mean covariance of two objects' losses."""
    losses = torch.stack([cross_entropy(network(images), labels, reduction="none") for _ in range(draws)]).double()
    objects = losses.shape[1]
    variance = float(losses.var(dim=0).mean())
    of_mean = float(losses.mean(dim=1).var())
    return variance, (objects * of_mean - variance) / (objects - 1)


def describe(runs: Sequence[dict[str, Any]], batches: Sequence[int]) -> str:
    """A line a noise, state and sampling: variances relative to local sampling's, mean ± deviation over seeds."""
    rows = []
    for law, state, place in dict.fromkeys((run["law"], run["state"], run["place"]) for run in runs):
        same = [run for run in runs if (run["law"], run["state"]) == (law, state)]
        mine = [run for run in same if run["place"] == place]
        local = [run for run in same if run["place"] == "local"]
        falls = [run["variance"][0] / run["variance"][-1] for run in mine]
        small_ratios = [run["variance"][0] / other["variance"][0] for run, other in zip(mine, local)]
        ratios = [run["variance"][-1] / other["variance"][-1] for run, other in zip(mine, local)]
        relative = [run["variance"][-1] / max(run["squared_mean"][-1], 1e-30) for run in mine]
        correlation = [run["loss_covariance"] / max(run["loss_variance"], 1e-30) for run in mine]
        cells = [report.plus_minus(values, 2) for values in (falls, small_ratios, ratios, relative)]
        rows.append([kinds.LAWS[law].label, state, place, *cells, report.plus_minus(correlation, 4)])
    small, large = batches[0], batches[-1]
    header = [
        "noise", "weights", "sampling", f"variance at {small} / at {large}", f"variance at {small} / local's",
        f"variance at {large} / local's",
        f"variance / squared mean gradient at {large}", "covariance / variance of losses",
    ]  # fmt: skip
    ideal = f"Independent noise has {large / small:g} in the first column of numbers, and 0 in the last."
    return report.markdown_table(header, rows) + "\n\n" + ideal
