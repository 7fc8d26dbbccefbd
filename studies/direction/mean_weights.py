"""Figures 3 to 5 of the thesis (and 8 to 10): networks trained with projected noise fail without it.

Figure 3: accuracy during training of the deterministic network (each noise replaced by its mean), of one random network
and of an ensemble. Figures 4, 5, 8 to 10: test images that the trained deterministic network gets wrong and the
ensemble right, shown to networks with the same weights and other noise variances: mean and standard deviation of the
softmax over random networks.

Beyond the thesis: the accuracy on all test images against the variance; and a second deterministic network whose
weights are the expectations of the noisy ones, which the thesis's is not: noise turns a unit vector v to v', E[v'] is
E[cos angle] v, and for strong noise much shorter than v.

Written to --out: table.md, figure3.png, figure4-IMAGE.png, accuracy.png and results.json.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from studies import figures, models, tables
from studies.data import ImageData
from studies.direction import kinds, training
from studies.direction.angles import cosines_by_law
from studies.direction.training import LAYERS, THESIS_LAYERS, DirectionStudy, Hidden, paper, tiny
from studies.figures import FAINT, INK
from studies.fit import seeded
from studies.seeds import derive, shuffled
from studies.settings import SOME, Count, Positive
from studies.study import Context, Report, Row

WAYS = (*training.WAYS, "expected weights")
_NOISES = {"projected": noisy.Projected, "tangent": noisy.Tangent}
_LINES = dict(zip(WAYS, (("#c1440e", "-"), ("#2a7f3b", "--"), ("#1f5fa8", "-"), ("#8a5fb5", ":"))))


@dataclass(frozen=True, kw_only=True)
class MeanWeights(DirectionStudy):
    """The settings of direction-mean-weights."""

    seeds: Count = 2
    """how many networks; the images of Figure 4 are the first's"""
    epochs: Count = 60
    """passes over the training images"""
    samples: Count = 10
    """networks an ensemble has, and a softmax is averaged over"""
    hidden: Hidden = LAYERS
    """hidden units of the fully connected network"""
    noise: Literal["projected", "tangent"] = "projected"
    """direction noise"""
    alpha: Positive = 0.03
    """its variance in training"""
    sampling: Literal["batch", "shared", "flipout", "local"] = "local"
    """shared is the thesis's"""
    size: Count = 2000
    """training images"""
    judged: Count = 300
    """training images, and test images, that measure each epoch"""
    alphas: Annotated[tuple[Positive, ...], SOME] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0)
    """variances tried after training, besides 0"""
    images: Count = 3
    """test images that get a figure"""

    presets = {
        "tiny": tiny(hidden=(8, 8), size=60, judged=20, alphas=(0.06, 1.0), images=1),
        "quick": {},
        "paper": paper(
            hidden=THESIS_LAYERS, seeds=3, alpha=0.02, sampling="shared", size=50000, judged=10000, images=5,
            alphas=(0.0005, 0.002, 0.007, 0.02, 0.06, 0.25, 1.0),
        ),
    }  # fmt: skip

    def run(self, context: Context, *, seed: int) -> dict[str, Any]:
        """All that is measured on one network: curves by part and way, accuracies by variance, softmaxes of images."""
        data = context.prepared
        used = shuffled(data.train_labels, seed, "training images")[: self.size]
        images, labels = data.train_images[used], data.train_labels[used]
        # A data set's test images may be sorted.
        shown = shuffled(data.test_labels, 0, "judged images")[: self.judged]
        parts = {
            "train": (images[: self.judged], labels[: self.judged]),
            "test": (data.test_images[shown], data.test_labels[shown]),
        }
        plain = models.started(models.mlp, data.shape, data.classes, self.hidden, seed=derive(seed, "weights"))
        plain = plain.to(images.device)
        network = _noisy(plain, self, self.alpha)
        curves: dict[str, dict[str, list[float]]] = {part: {way: [] for way in WAYS} for part in parts}
        for _ in training.train(network, images, labels, self, seed):
            for part, (judged, truth) in parts.items():
                for way, share in all_ways(network, judged, truth, self, seed).items():
                    curves[part][way].append(share)
            context.advance(1 / self.epochs)
        by_variance = []
        for alpha in (0.0, *self.alphas):
            probabilities = softmaxes(network, plain, self, alpha, data.test_images, seed).mean(0)
            predicted = probabilities.argmax(1)
            counts = torch.bincount(predicted, minlength=data.classes)
            by_variance.append(
                {
                    "alpha": alpha,
                    "ensemble": float((predicted == data.test_labels).double().mean()),
                    "largest_class": int(counts.argmax()),
                    "largest_share": float(counts.max()) / len(predicted),
                }
            )
        return {
            "curves": curves,
            "variances": by_variance,
            "last": all_ways(network, data.test_images, data.test_labels, self, seed),
            "images": softmaxes_of_wrong_images(network, plain, data, self, seed),
        }

    def report(self, rows: list[Row]) -> Report:
        """Accuracies after the last epoch by way, then by variance; percent, mean ± deviation over networks."""
        ways = [
            [way, *(tables.percent([row["curves"][part][way][-1] for row in rows]) for part in ("train", "test")),
             tables.percent([row["last"][way] for row in rows])]
            for way in WAYS
        ]  # fmt: skip
        tried = [one for row in rows for one in row["variances"]]
        by_variance = {
            "variance": lambda same: f"{same[0]['alpha']:g}" + " (training)" * (same[0]["alpha"] == self.alpha),
            "test": lambda same: tables.percent([one["ensemble"] for one in same]),
            "most predicted class": lambda same: ", ".join(f"{one['largest_class']}" for one in same),
            "its share": lambda same: tables.percent([one["largest_share"] for one in same]),
        }
        judged = f"{self.judged} images"
        parts = [
            "After the last epoch:",
            tables.markdown(["network", f"training, {judged}", f"test, {judged}", "test, all"], ways),
            "The same weights with other variances, ensembles on all test images:",
            tables.table(tried, ["alpha"], by_variance),
        ]
        title = f"{self.noise} noise, α = {self.alpha:g}, {self.sampling}, {self.data}, {self.size} training images"
        drawn = {"figure3.png": draw_training(rows, title), "accuracy.png": draw_variances(rows, self.alpha, title)}
        for number, image in enumerate(rows[0]["images"], 1):
            drawn[f"figure4-{number}.png"] = draw_softmax(image, self.alpha)
        return Report("\n\n".join(parts), drawn)

    def summary(self, row: Row) -> str:
        return f"ensemble {row['last']['ensemble']:.1%}"


def _noisy(plain: nn.Sequential, settings: MeanWeights, alpha: float) -> nn.Sequential:
    return kinds.converted(plain, direction=_NOISES[settings.noise](alpha), sampling=settings.sampling)


def all_ways(network: nn.Module, images: Tensor, labels: Tensor, settings: MeanWeights, seed: int) -> dict[str, float]:
    """``training.accuracies`` and that of the network with expected weights."""
    found = training.accuracies(network, images, labels, samples=settings.samples, seed=seed)
    with expected_weights(network):
        found["expected weights"] = training.accuracies(network, images, labels, samples=1, seed=seed)["deterministic"]
    return found


@contextlib.contextmanager
def expected_weights(network: nn.Module) -> Iterator[None]:
    """A block in which every magnitude is multiplied by E[cos angle], so that mean weights are expectations."""
    layers = [layer for _, layer in noisy.noisy_modules(network)]
    before = [layer.weight_g.detach().clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.weight_g.mul_(float(cosines_by_law(layer.direction, layer.fan_in, 4_000, 0).mean()))
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, magnitudes in zip(layers, before):
                layer.weight_g.copy_(magnitudes)


@torch.no_grad()
def softmaxes(
    network: nn.Module, plain: nn.Sequential, settings: MeanWeights, alpha: float, images: Tensor, seed: int
) -> Tensor:
    """(samples, images, classes): class probabilities of random networks with a network's weights and a variance."""
    other = _noisy(plain, settings, alpha or 1.0)
    other.load_state_dict(network.state_dict())
    with seeded(images.device, derive(seed, "predictions")), noisy.noise_mode(other, "sample" if alpha else "mean"):
        parts = [logits.softmax(2) for _, logits in training.logits_of(other, images, settings.samples if alpha else 1)]
    return torch.cat(parts, 1)


def softmaxes_of_wrong_images(
    network: nn.Module, plain: nn.Sequential, data: ImageData, settings: MeanWeights, seed: int
) -> list[dict[str, Any]]:
    """Test images that the ensemble gets right and the deterministic network wrong, most confidently; one a class."""
    truth = data.test_labels
    certain = softmaxes(network, plain, settings, 0.0, data.test_images, seed)[0]
    together = softmaxes(network, plain, settings, settings.alpha, data.test_images, seed).mean(0)
    fits = (certain.argmax(1) != truth) & (together.argmax(1) == truth)
    candidates = torch.where(fits, certain.amax(1), -1.0).argsort(descending=True, stable=True)
    picked: dict[int, int] = {}
    for index in candidates[: int(fits.sum())].tolist():
        picked.setdefault(int(truth[index]), index)
    found = []
    for label, index in list(picked.items())[: settings.images]:
        image = data.test_images[index : index + 1]
        panels = []
        for alpha in (0.0, *settings.alphas):
            drawn = softmaxes(network, plain, settings, alpha, image, seed)[:, 0].double()
            deviation = drawn.std(0) if len(drawn) > 1 else torch.zeros_like(drawn[0])
            panels.append({"alpha": alpha, "mean": drawn.mean(0).tolist(), "deviation": deviation.tolist()})
        found.append({"label": label, "index": index, "pixels": image[0, 0].tolist(), "panels": panels})
    return found


def draw_training(rows: list[Row], title: str) -> Figure:
    """Figure 3: accuracy against epochs, training images left, test images right; means and one deviation."""
    figure, panels = figures.new_figure(1, 2, width=9.6, height=3.9, sharey=True, title=title)
    for panel, (part, heading) in zip(panels[0], (("train", "Training images"), ("test", "Test images"))):
        for way, (color, style) in _LINES.items():
            curves = [row["curves"][part][way] for row in rows]
            figures.over_epochs(panel, curves, color=color, linestyle=style, linewidth=2, label=way)
        figures.name_axes(panel, heading, "epoch")
    figures.legend_below(figure, panels[0, 0])
    return figure


def draw_variances(rows: list[Row], trained: float, title: str) -> Figure:
    """Test accuracy of the ensemble, and the share of the most predicted class, against the variance; 0 at the left."""
    alphas = [one["alpha"] for one in rows[0]["variances"]]
    figure, panels = figures.new_figure(1, 1, width=6.4, height=3.8, title=title)
    panel, places = panels[0, 0], np.arange(len(alphas))
    for measure, color, marker, words in (
        ("ensemble", "#1f5fa8", "o", "right, ensemble"),
        ("largest_share", "#c1440e", "^", "predicted as the most predicted class"),
    ):
        values = 100 * np.array([[one[measure] for one in row["variances"]] for row in rows])
        panel.plot(places, values.T, color=color, alpha=0.25, linewidth=0.8)
        panel.plot(places, values.mean(0), color=color, marker=marker, label=words)
    if trained in alphas:
        panel.axvline(alphas.index(trained), color=FAINT, linestyle=":", zorder=0)
    figures.name_axes(panel, "Test images by the variance of the noise (dotted: in training)", "α")
    panel.set_xticks(places, [f"{alpha:g}" for alpha in alphas])
    panel.legend()
    return figure


def draw_softmax(image: dict[str, Any], trained: float) -> Figure:
    """Figures 4, 5, 8 to 10: the image, then class probabilities by variance; bars one standard deviation."""
    columns = math.ceil((len(image["panels"]) + 1) / 2)
    figure, grid = figures.new_figure(
        2, columns, width=max(7.0, 2.3 * columns), height=4.3,
        title="Class probabilities by the variance of the noise (blue: the right class)",
    )  # fmt: skip
    first, *others = grid.flat
    first.imshow(image["pixels"], cmap="gray_r")
    first.set_title(f"test image {image['index']}, label {image['label']}", fontsize=9)
    for panel in (first, *others[len(image["panels"]) :]):
        panel.axis("off")
    for panel, one in zip(others, image["panels"]):
        classes = range(len(one["mean"]))
        colors = ["#1f5fa8" if which == image["label"] else "#b9b9b9" for which in classes]
        panel.bar(
            classes, one["mean"], yerr=one["deviation"], color=colors, ecolor=INK, capsize=1.5, error_kw={"lw": 0.8}
        )
        title = f"α = {one['alpha']:g}" + " (training)" * (one["alpha"] == trained)
        figures.name_axes(panel, title, "", percent=False)
        panel.set_ylim(0, 1.05)
        panel.set_xticks(list(classes)[:: max(1, len(classes) // 10)])
    return figure
