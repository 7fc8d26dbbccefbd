"""Figures 3 to 5 of the thesis (and 8 to 10): networks trained with projected noise fail without it.

Figure 3: accuracy during training of the deterministic network (each noise replaced by its mean), of one random network
and of an ensemble. Figures 4, 5, 8 to 10: test images that the trained deterministic network gets wrong and the
ensemble right, shown to networks with the same weights and other noise variances: mean and standard deviation of the
softmax over random networks.

Beyond the thesis: the accuracy on all test images against the variance; and a second deterministic network whose
weights are the expectations of the noisy ones, which the thesis's is not: noise turns a unit vector v to v', E[v'] is
E[cos angle] v, and for strong noise much shorter than v.

Written to --out: table.md, figure3.png, figure4-IMAGE.png, accuracy.png, results.json, and runs.jsonl, from which a
stopped study goes on.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.direction import fit, kinds, mean_weights_drawing, networks
from nvrm_fast.experiments.direction.options import LAYERS, THESIS_LAYERS, DirectionSettings, full, tiny
from nvrm_fast.experiments.direction.turning import cosines_by_law
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, POSITIVE, option

NAME = "direction-mean-weights"
HELP = "networks trained with projected noise fail without it (thesis, Figures 3 to 5)"
WAYS = (*fit.WAYS, "expected weights")
_NOISES = {"projected": noisy.Projected, "tangent": noisy.Tangent}


@dataclass(frozen=True)
class MeanSettings(DirectionSettings):
    """Options of the study."""

    seeds: int = option(2, "how many networks; the images of Figure 4 are the first's", type=int, check=AT_LEAST_ONE)
    epochs: int = option(60, "passes over the training images", type=int, check=AT_LEAST_ONE)
    samples: int = option(10, "networks an ensemble has, and a softmax is averaged over", type=int, check=AT_LEAST_ONE)
    hidden: tuple[int, ...] = LAYERS
    noise: str = option("projected", "direction noise", choices=tuple(_NOISES))
    alpha: float = option(0.03, "its variance in training", type=float, check=POSITIVE)
    sampling: str = option("local", "shared is the thesis's", choices=("shared", "flipout", "local"))
    size: int = option(2000, "training images", type=int, check=AT_LEAST_ONE)
    judged: int = option(300, "training images, and test images, that measure each epoch", type=int, check=AT_LEAST_ONE)
    alphas: tuple[float, ...] = option(
        (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0),
        "variances tried after training, besides 0",
        type=float,
        nargs="+",
        metavar="VARIANCE",
        check=(lambda alphas: len(alphas) > 0 and min(alphas) > 0, "more than 0"),
    )
    images: int = option(3, "test images that get a figure", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": full(
            hidden=THESIS_LAYERS, seeds=3, alpha=0.02, sampling="shared", size=50000, judged=10000, images=5,
            alphas=(0.0005, 0.002, 0.007, 0.02, 0.06, 0.25, 1.0),
        ),
        "tiny": tiny(hidden=(8, 8), size=60, judged=20, alphas=(0.06, 1.0), images=1),
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=MeanSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Train, try other variances, print the table and write the figures."""
    chosen = settings.from_arguments(arguments, MeanSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    record = Record(folder, NAME, chosen)
    with progress(chosen.seeds * chosen.epochs, "epochs") as bar:
        runs = [
            record.run({"seed": seed}, partial(one_network, data, chosen, seed, bar.update))
            for seed in range(chosen.seeds)
        ]
    text = describe(runs, chosen)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    content = {"study": NAME, "settings": asdict(chosen), "versions": report.versions(chosen.device), "runs": runs}
    report.write_json(folder / "results.json", content)
    title = f"{chosen.noise} noise, α = {chosen.alpha:g}, {chosen.sampling}, {data.name}, {chosen.size} training images"
    mean_weights_drawing.draw_training(runs, folder / "figure3.png", title=title)
    mean_weights_drawing.draw_variances(runs, chosen.alpha, folder / "accuracy.png", title=title)
    for place, image in enumerate(runs[0]["images"]):
        mean_weights_drawing.draw_softmax(image, chosen.alpha, folder / f"figure4-{place + 1}.png")
    print(f"\n{text}\n\nwritten: figure3.png, figure4-*.png, accuracy.png, table.md, results.json in {folder}")


def one_network(data: ImageData, chosen: MeanSettings, seed: int, after_epoch: Any) -> dict[str, Any]:
    """Everything measured on one network: curves by part and way, accuracies by variance, and softmaxes of images."""
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed + 2**31))
    used = order[: chosen.size].to(data.train_labels.device)
    images, labels = data.train_images[used], data.train_labels[used]
    # A data set's test images may be sorted.
    shown = torch.randperm(len(data.test_labels), generator=torch.Generator().manual_seed(0))[: chosen.judged]
    shown = shown.to(used.device)
    parts = {
        "train": (images[: chosen.judged], labels[: chosen.judged]),
        "test": (data.test_images[shown], data.test_labels[shown]),
    }
    plain = networks.fully_connected(data.shape, data.classes, chosen.hidden, seed=seed).to(images.device)
    network = _noisy(plain, chosen, chosen.alpha)
    curves: dict[str, dict[str, list[float]]] = {part: {way: [] for way in WAYS} for part in parts}

    def measure(epoch: int) -> None:
        for part, (judged, truth) in parts.items():
            found = all_ways(network, judged, truth, chosen, seed)
            for way in WAYS:
                curves[part][way].append(found[way])
        after_epoch()

    fit.train(
        network, images, labels, epochs=chosen.epochs, batch_size=chosen.batch_size, lr=chosen.lr, seed=seed,
        after_epoch=measure,
    )  # fmt: skip
    by_variance = []
    for alpha in (0.0, *chosen.alphas):
        probabilities = softmaxes(network, plain, chosen, alpha, data.test_images, seed).mean(0)
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
        "last": all_ways(network, data.test_images, data.test_labels, chosen, seed),
        "images": softmaxes_of_wrong_images(network, plain, data, chosen, seed),
    }


def _noisy(plain: nn.Sequential, chosen: MeanSettings, alpha: float) -> nn.Sequential:
    return kinds.converted(plain, direction=_NOISES[chosen.noise](alpha), sampling=chosen.sampling)


def all_ways(network: nn.Module, images: Tensor, labels: Tensor, chosen: MeanSettings, seed: int) -> dict[str, float]:
    """``fit.accuracies`` and that of the network with expected weights."""
    found = fit.accuracies(network, images, labels, samples=chosen.samples, seed=seed)
    with expected_weights(network):
        found["expected weights"] = fit.accuracies(network, images, labels, samples=1, seed=seed)["deterministic"]
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
    network: nn.Module, plain: nn.Sequential, chosen: MeanSettings, alpha: float, images: Tensor, seed: int
) -> Tensor:
    """(samples, images, classes): class probabilities of random networks with a network's weights and a variance."""
    other = _noisy(plain, chosen, alpha or 1.0)
    other.load_state_dict(network.state_dict())
    with fit.seeded(images.device, seed), noisy.noise_mode(other, "sample" if alpha else "mean"):
        parts = [logits.softmax(2) for _, logits in fit.logits_of(other, images, chosen.samples if alpha else 1)]
    return torch.cat(parts, 1)


def softmaxes_of_wrong_images(
    network: nn.Module, plain: nn.Sequential, data: ImageData, chosen: MeanSettings, seed: int
) -> list[dict[str, Any]]:
    """Test images that the ensemble gets right and the deterministic network wrong, most confidently; one a class."""
    truth = data.test_labels
    certain = softmaxes(network, plain, chosen, 0.0, data.test_images, seed)[0]
    together = softmaxes(network, plain, chosen, chosen.alpha, data.test_images, seed).mean(0)
    fits = (certain.argmax(1) != truth) & (together.argmax(1) == truth)
    candidates = torch.where(fits, certain.amax(1), -1.0).argsort(descending=True, stable=True)
    picked: dict[int, int] = {}
    for index in candidates[: int(fits.sum())].tolist():
        picked.setdefault(int(truth[index]), index)
    found = []
    for label, index in list(picked.items())[: chosen.images]:
        image = data.test_images[index : index + 1]
        panels = []
        for alpha in (0.0, *chosen.alphas):
            drawn = softmaxes(network, plain, chosen, alpha, image, seed)[:, 0].double()
            deviation = drawn.std(0) if len(drawn) > 1 else torch.zeros_like(drawn[0])
            panels.append({"alpha": alpha, "mean": drawn.mean(0).tolist(), "deviation": deviation.tolist()})
        found.append({"label": label, "index": index, "pixels": image[0, 0].tolist(), "panels": panels})
    return found


def describe(runs: Sequence[dict[str, Any]], chosen: MeanSettings) -> str:
    """Accuracies after the last epoch by way, then by variance; percent, mean ± deviation over networks."""
    ways = [
        [way, *(report.percent([run["curves"][part][way][-1] for run in runs]) for part in ("train", "test")),
         report.percent([run["last"][way] for run in runs])]
        for way in WAYS
    ]  # fmt: skip
    variances = [
        [
            f"{row['alpha']:g}" + " (training)" * (row["alpha"] == chosen.alpha),
            report.percent([run["variances"][place]["ensemble"] for run in runs]),
            ", ".join(f"{run['variances'][place]['largest_class']}" for run in runs),
            report.percent([run["variances"][place]["largest_share"] for run in runs]),
        ]
        for place, row in enumerate(runs[0]["variances"])
    ]
    judged = f"{chosen.judged} images"
    return "\n\n".join(
        [
            "After the last epoch:",
            report.markdown_table(["network", f"training, {judged}", f"test, {judged}", "test, all"], ways),
            "The same weights with other variances, ensembles on all test images:",
            report.markdown_table(["variance", "test", "most predicted class", "its share"], variances),
        ]
    )
