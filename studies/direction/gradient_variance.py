"""Section 4.2 of the thesis, measured: does noise that objects share keep the gradient's variance from falling?

Weights are fixed. A mini-batch is chosen, the noise is drawn twice, and half the squared distance of both gradients
estimates without bias the trace of the gradient's covariance matrix that the noise alone causes, over all parameters;
it is averaged over mini-batches. So for several mini-batch sizes M, for direction noise on the weights with batch,
shared, flipout and local sampling, and on the signal. Independent noise makes it fall as 1 / M (equation 42); a
covariance between objects keeps it up. That covariance is measured too, on the objects' losses at the largest
mini-batch.

All samplings are measured at the same weights and mini-batches: the weights of the initialization, and those after
training with local sampling. Shared sampling shares the plane of rotation, batch sampling the angle as well, as the
thesis's experiments did.

Written to --out: table.md, gradients.png and results.json.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from studies import figures, models, tables
from studies.data import ImageData
from studies.direction import kinds, training
from studies.direction.training import LAYERS, THESIS_LAYERS, DirectionStudy, Hidden, paper, tiny
from studies.fit import seeded
from studies.seeds import derive, shuffled
from studies.settings import SOME, Count
from studies.study import Context, Report, Row

PLACES = ("batch", "shared", "flipout", "local", "signal")
LAWS = ("rot-n", "rot-half", "rot-n-magn-n", "rot-b", "proj", "tang", "vmf")
STATES = {"start": "weights at the start", "trained": "trained weights"}


@dataclass(frozen=True, kw_only=True)
class GradientVariance(DirectionStudy):
    """The settings of direction-gradients."""

    seeds: Count = 2
    """how many seeds: initialization, batches and noise"""
    epochs: Count = 5
    """of training before the second measurement"""
    hidden: Hidden = LAYERS
    """hidden units of the fully connected network"""
    laws: Annotated[tuple[Literal[LAWS], ...], SOME] = ("rot-n", "rot-half", "proj")
    """noises; each at the middle strength of direction-tables"""
    batches: Annotated[tuple[Annotated[int, Field(ge=2)], ...], SOME] = (4, 16, 64, 256)
    """mini-batch sizes"""
    draws: Count = 6
    """pairs of draws at the largest size; more at smaller ones"""

    presets = {
        "tiny": tiny(hidden=(8, 8), laws=("proj",), batches=(2, 8), draws=2),
        "quick": {},
        "paper": paper(
            hidden=THESIS_LAYERS, seeds=5, epochs=20, draws=200, laws=LAWS, batches=(4, 16, 64, 256, 1024, 4096)
        ),
    }
    axes = {"law": "laws", "state": STATES}
    extends = ("laws",)

    def prepare(self) -> ImageData:
        return self.images_for("--batches", max(self.batches))

    def run(self, context: Context, *, law: str, state: str, seed: int) -> dict[str, Any]:
        """The measurements of all samplings at one network's weights."""
        data = context.prepared
        strengths = kinds.LAWS[law].strengths
        noise = kinds.LAWS[law].noise(*strengths[len(strengths) // 2])
        plain = models.started(models.mlp, data.shape, data.classes, self.hidden, seed=derive(seed, "weights"))
        trained = kinds.converted(plain, sampling="local", **noise).to(data.train_images.device)
        if state == "trained":
            for _ in training.train(trained, data.train_images, data.train_labels, self, seed):
                pass
        largest = max(self.batches)
        order = shuffled(data.train_labels, seed, "training images")
        given, labels = data.train_images[order], data.train_labels[order]
        found = []
        for place in PLACES:
            network = _with_sampling(plain, trained, place, noise)
            with seeded(labels.device, derive(seed, "gradient noise")):
                measured = []
                for size in self.batches:
                    # Small mini-batches differ most from each other, and cost least.
                    pairs = math.ceil(self.draws * math.sqrt(largest / size))
                    measured.append(gradient_variance(network, given, labels, size, pairs, seed))
                variance, covariance = loss_covariance(network, given[:largest], labels[:largest], 10 * self.draws)
            found.append(
                {
                    "place": place,
                    "variance": [both[0] for both in measured],
                    "squared_mean": [both[1] for both in measured],
                    "loss_variance": variance,
                    "loss_covariance": covariance,
                }
            )
            context.advance(1 / len(PLACES))
        return {"samplings": found}

    def report(self, rows: list[Row]) -> Report:
        """A line a noise, state and sampling: variances relative to local sampling's, mean ± deviation over seeds."""
        order = {law: number for number, law in enumerate(self.laws)}
        rows = [
            {name: row[name] for name in ("law", "state", "seed")} | measured
            for row in sorted(rows, key=lambda row: order[row["law"]])
            for measured in row["samplings"]
        ]
        small, large = self.batches[0], self.batches[-1]

        def ratio(value: Callable[[Row, Row], float], digits: int = 2) -> Callable[[list[Row]], str]:
            def words(mine: list[Row]) -> str:
                local = tables.select(rows, law=mine[0]["law"], state=mine[0]["state"], place="local")
                return tables.plus_minus([value(*both) for both in zip(mine, local)], digits)

            return words

        columns = {
            "noise": lambda mine: kinds.LAWS[mine[0]["law"]].label,
            "weights": "state",
            "sampling": "place",
            f"variance at {small} / at {large}": ratio(lambda row, _: row["variance"][0] / row["variance"][-1]),
            f"variance at {small} / local's": ratio(lambda row, local: row["variance"][0] / local["variance"][0]),
            f"variance at {large} / local's": ratio(lambda row, local: row["variance"][-1] / local["variance"][-1]),
            f"variance / squared mean gradient at {large}": ratio(
                lambda row, _: row["variance"][-1] / max(row["squared_mean"][-1], 1e-30)
            ),
            "covariance / variance of losses": ratio(
                lambda row, _: row["loss_covariance"] / max(row["loss_variance"], 1e-30), 4
            ),
        }
        ideal = f"Independent noise has {large / small:g} in the first column of numbers, and 0 in the last."
        text = f"{tables.table(rows, ['law', 'state', 'place'], columns)}\n\n{ideal}"
        return Report(text, {"gradients.png": draw(self, rows)})


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
    generator = torch.Generator().manual_seed(derive(seed, "measured batches"))
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


def draw(settings: GradientVariance, rows: list[Row]) -> Figure:
    """Noise variance of the gradient against the mini-batch size: a column a noise, a row a state of the weights."""
    batches, laws = settings.batches, settings.laws
    figure, grid = figures.new_figure(
        len(STATES), len(laws), width=max(6.4, 3.6 * len(laws) + 0.6), height=3.1 * len(STATES) + 0.7, sharex=True,
        title=f"{settings.data}: variance of the gradient caused by noise alone",
    )  # fmt: skip
    for (line, state), (column, law) in itertools.product(enumerate(STATES), enumerate(laws)):
        panel, mine = grid[line, column], tables.select(rows, law=law, state=state)
        measured = {row["place"] for row in mine}
        for place in (place for place in reversed(PLACES) if place in measured):
            values = np.array([row["variance"] for row in tables.select(mine, place=place)])
            color, marker, words = kinds.PLACES[place]
            panel.plot(batches, values.T, color=color, alpha=0.25, linewidth=0.8)
            label = words.removeprefix("direction, on the ")
            panel.plot(batches, values.mean(0), color=color, marker=marker, markersize=4.5, label=label)
        start = np.mean([row["variance"][0] for row in tables.select(mine, place="local")])
        panel.plot(batches, [start * batches[0] / size for size in batches], ":", color=figures.FAINT, label="1 / M")
        figures.name_axes(
            panel, f"{kinds.LAWS[law].label}, {STATES[state]}", "mini-batch size M" if line == len(STATES) - 1 else "",
            "" if column else "trace of the covariance", percent=False,
        )  # fmt: skip
        figures.tick_scales(panel, batches)
        panel.set_yscale("log")
    figures.legend_below(figure, grid[0, 0], columns=6 if len(laws) > 1 else 3)
    return figure
