"""Table 3 and Figure 6 of the thesis: the variational model, which learns its noise, on three LeNets.

Models: no noise; Gaussian noise on the input of every layer; the variational model with local sampling, and with the
plane of rotation shared by the mini-batch; and the thesis's "Var FC reverse", whose dense layers have a weight vector
for each input unit (section 4.3). The divergence's weight grows from 0 to --divergence during the first part of the
training. Each is measured as deterministic network, one random network and ensemble, and the variational ones also as
deterministic network after pruning weight vectors whose magnitude is noise.

Figure 6: posteriors of magnitude and angle for the weight vectors of the first layer that are most and least noise.

Written to --out: table.md, figure6-MODEL.png and results.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from nvrm_fast.nn.variational import Variational
from studies import figures, models, tables
from studies.direction import kinds, training
from studies.direction.training import DirectionStudy, paper, tiny
from studies.seeds import derive, shuffled
from studies.settings import SOME, Count, NotNegative, Positive
from studies.study import Context, Report, Row

LENETS: dict[str, Callable[..., nn.Module]] = {
    "lenet-300-100": partial(models.mlp, hidden=(300, 100)),
    "lenet-500-300": partial(models.mlp, hidden=(500, 300)),
    "lenet-5": models.lenet5,
}
MODELS = ("none", "gauss-input", "variational", "variational-shared", "variational-reverse")
_LABELS = dict(zip(MODELS, ("No reg", "Gauss inp", "Var, local", "Var, shared", "Var FC reverse, shared")))
_POSTERIOR = ("log_spread", "angle_mean_logit", "log_angle_deviation")
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class VariationalModel(DirectionStudy):
    """The settings of direction-variational."""

    seeds: Count = 2
    """how many seeds: initialization, batches and noise"""
    epochs: Count = 60
    """passes over the training images"""
    networks: Annotated[tuple[Literal[tuple(LENETS)], ...], SOME] = ("lenet-300-100",)
    """networks"""
    models: Annotated[tuple[Literal[MODELS], ...], SOME] = MODELS
    """models"""
    size: Count | None = 2000
    """training images (None: all)"""
    gauss: Positive = 0.1
    """variance of the Gaussian noise on the input"""
    divergence: NotNegative = 1.0
    """weight of the divergence after warming up"""
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.3
    """part of the training in which that weight grows"""
    posterior_lr: Positive = 10.0
    """how many times --lr the posteriors' spreads and angles learn by"""

    presets = {
        "tiny": tiny(networks=("lenet-300-100", "lenet-5"), size=60),
        "quick": {},
        "paper": paper(seeds=5, networks=tuple(LENETS), size=None, posterior_lr=1.0),
    }
    axes = {"network": "networks", "model": "models"}
    extends = ("networks", "models")
    packages = ("scipy",)

    def run(self, context: Context, *, network: str, model: str, seed: int) -> dict[str, Any]:
        """Train one model. Accuracies on the test images as fractions, what was pruned, the first layer's posterior."""
        data = context.prepared
        used = shuffled(data.train_labels, seed, "training images")[: self.size]
        plain = models.started(LENETS[network], data.shape, data.classes, seed=derive(seed, "weights")).to(used.device)
        made = make_model(plain, model, self.gauss)
        steps = self.epochs * -(-len(used) // self.batch_size)

        def loss(logits: Tensor, labels: Tensor, step: int) -> Tensor:
            weight = self.divergence * noisy.warm_up(step, round(self.warm_up * steps))
            return noisy.elbo_loss(cross_entropy(logits, labels), made, len(used), weight)

        faster = {name: self.posterior_lr for name in _POSTERIOR}
        epochs = training.train(
            made, data.train_images[used], data.train_labels[used], self, seed, loss=loss, faster=faster
        )
        result: dict[str, Any] = {"seconds": sum(epoch.seconds for epoch in epochs), "posterior": None}
        result |= training.accuracies(made, data.test_images, data.test_labels, samples=self.samples, seed=seed)
        layers = [layer for layer in made.modules() if isinstance(layer, Variational)]
        if layers:
            result["posterior"] = posterior(layers[0])
            result["agreement"] = agreement(layers)
            result["vectors"] = sum(layer.neurons for layer in layers)
            result["pruned"] = sum(noisy.prune(made).values())
            found = training.accuracies(made, data.test_images, data.test_labels, samples=1, seed=seed)
            result["after_pruning"] = found["deterministic"]
        return result

    def report(self, rows: list[Row]) -> Report:
        """Table 3 as the thesis has it, then all that was measured; percent, mean ± deviation over seeds. Figure 6."""

        def ensembles(model: str) -> Callable[[list[Row]], str]:
            return lambda mine: tables.percent([row["ensemble"] for row in tables.select(mine, model=model)])

        rows = sorted(rows, key=lambda row: self.networks.index(row["network"]))
        table3 = {"network": "network"} | {_LABELS[model]: ensembles(model) for model in self.models}
        columns = {"network": "network", "model": tables.words(lambda row: _LABELS[row["model"]])}
        columns |= {way: tables.shares(way) for way in training.WAYS}
        columns |= {
            "pruned": tables.shares(lambda row: row["pruned"] / row["vectors"] if "pruned" in row else None),
            "deterministic, pruned": tables.shares(lambda row: row.get("after_pruning")),
            "rank correlation": tables.means(lambda row: row.get("agreement"), 2),
            "training, s": tables.means("seconds", 0),
        }
        parts = [
            "Table 3, test accuracy of ensembles:",
            tables.table(rows, ["network"], table3),
            "By way of predicting; share of weight vectors pruned; rank correlation of ln α with uniformity of angle:",
            tables.table(rows, ["network", "model"], columns),
        ]
        drawn = {
            f"figure6-{row['model']}.png": draw_posteriors(
                row["posterior"], f"{row['network']}, {_LABELS[row['model']]}, first layer, {self.data}"
            )
            for row in tables.select(rows, seed=0, network=self.networks[0])
            if row["posterior"]
        }
        return Report("\n\n".join(parts), drawn)

    def summary(self, row: Row) -> str:
        return f"ensemble {row['ensemble']:.1%}"


def make_model(plain: nn.Sequential, model: str, gauss: float) -> nn.Sequential:
    """A noisy copy of a plain network by the name of the model."""
    if model in (kinds.PLAIN, kinds.GAUSS_INPUT):
        return kinds.with_noise(plain, model, (gauss,))
    sampling = "local" if model == "variational" else "shared"
    if model != "variational-reverse":
        return kinds.converted(plain, "variational", sampling=sampling)
    dense = kinds.converted(
        plain, "variational", sampling=sampling, normalize="input", where=lambda _, layer: type(layer) is nn.Linear
    )
    if not any(isinstance(layer, nn.Conv2d) for layer in plain):
        return dense
    return kinds.converted(dense, "variational", sampling=sampling)


@torch.no_grad()
def posterior(layer: Variational) -> dict[str, list[float]]:
    """m, lambda and the angle's mu and sigma, before truncation, of each weight vector of a layer."""
    mean, deviation = layer.angle_posterior()
    return {
        "magnitude": layer.weight_g.flatten().tolist(),
        "spread": layer.log_spread.exp().tolist(),
        "angle_mean": mean.tolist(),
        "angle_deviation": deviation.tolist(),
    }


@torch.no_grad()
def agreement(layers: Sequence[Variational]) -> float | None:
    """Rank correlation, over all weight vectors, of ln alpha with how close to uniform the angle's posterior is; None
    where all vectors are alike."""
    noise = torch.cat([layer.log_alpha() for layer in layers])
    angle = torch.cat(
        [noisy.truncated_normal_divergence(*layer.angle_posterior(), 0.0, torch.pi / 2) for layer in layers]
    )
    if noise.min() == noise.max() or angle.min() == angle.max():
        return None
    return float(stats.spearmanr(noise.cpu(), -angle.cpu()).statistic)


def draw_posteriors(posterior: dict[str, Sequence[float]], title: str) -> Figure:
    """Figure 6: densities of magnitude (above) and angle (below) of the weight vectors with most noise (left) and least
    (right). The angle is drawn on [-pi/2, pi/2]: turning by -angle is turning by angle in the opposite direction, as
    likely. posterior: of ``posterior``."""
    values = {name: np.asarray(column, float) for name, column in posterior.items()}
    magnitudes, spreads = values["magnitude"], np.maximum(values["spread"], 1e-9)
    order = np.argsort(values["spread"] / np.maximum(np.abs(magnitudes), 1e-12))
    figure, panels = figures.new_figure(2, 2, width=9.0, height=5.2, title=title)
    sides = (("most noise", order[::-1][:_SHOWN]), ("least noise", order[:_SHOWN]))
    angles = np.linspace(-math.pi / 2, math.pi / 2, 1_001)
    for column, (words, vectors) in enumerate(sides):
        above, below = panels[:, column]
        ends = [magnitudes[vectors] + sign * 4 * spreads[vectors] for sign in (-1, 1)]
        across = np.linspace(min(0.0, ends[0].min()), max(0.0, ends[1].max()), 1_001)
        for vector, color in zip(vectors, figures.COLORS):
            above.plot(across, stats.norm.pdf(across, magnitudes[vector], spreads[vector]), color=color)
            density = angle_density(angles, values["angle_mean"][vector], values["angle_deviation"][vector])
            below.plot(angles, density, color=color, label=f"vector {vector}")
        up = "" if column else "density"
        figures.name_axes(above, f"Weight vectors with {words}", "magnitude g", up, percent=False)
        figures.name_axes(below, "", "angle", up, percent=False)
        below.set_ylim(0, None)
        below.set_xticks([-math.pi / 2, 0, math.pi / 2], ["-π/2", "0", "π/2"])
        below.legend()
    return figure


def angle_density(angles: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Of an angle of either sign whose size has a normal distribution truncated to [0, pi/2]."""
    low, high = -mean / deviation, (math.pi / 2 - mean) / deviation
    return 0.5 * stats.truncnorm.pdf(np.abs(angles), low, high, loc=mean, scale=deviation)
