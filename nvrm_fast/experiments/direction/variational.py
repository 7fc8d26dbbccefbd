"""Table 3 and Figure 6 of the thesis: the variational model, which learns its noise, on three LeNets.

Models: no noise; Gaussian noise on the input of every layer; the variational model with local sampling, and with the
thesis's, where the plane of rotation is shared by the mini-batch; and the thesis's "Var FC reverse", whose dense layers
have a weight vector for each input unit (section 4.3). The divergence's weight grows from 0 to --divergence during
the first part of the training. Each is measured as deterministic network, one random network and ensemble, and the
variational ones also as deterministic network after pruning weight vectors whose magnitude is noise.

Figure 6: posteriors of magnitude and angle for the weight vectors of the first layer that are most and least noise.

Written to --out: table.md, figure6-MODEL.png, results.json, and runs.jsonl, from which a stopped study goes on.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.direction import fit, kinds, posterior_drawing
from nvrm_fast.experiments.direction.networks import LENETS
from nvrm_fast.experiments.direction.options import DirectionSettings, full, tiny
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, option
from nvrm_fast.nn.variational import Variational

NAME = "direction-variational"
HELP = "the variational model on three LeNets, and its posteriors (thesis, Table 3 and Figure 6)"
MODELS = ("none", "gauss-input", "variational", "variational-shared", "variational-reverse")
_LABELS = dict(zip(MODELS, ("No reg", "Gauss inp", "Var, local", "Var, shared", "Var FC reverse, shared")))
_POSTERIOR = ("log_spread", "angle_mean_logit", "log_angle_deviation")


@dataclass(frozen=True)
class VariationalSettings(DirectionSettings):
    """Options of the study."""

    seeds: int = option(2, "how many seeds: initialisation, batches and noise", type=int, check=AT_LEAST_ONE)
    epochs: int = option(60, "passes over the training images", type=int, check=AT_LEAST_ONE)
    networks: tuple[str, ...] = option(
        ("lenet-300-100",), "networks", nargs="+", metavar="NETWORK", choices=tuple(LENETS)
    )
    models: tuple[str, ...] = option(MODELS, "models", nargs="+", metavar="MODEL", choices=MODELS)
    size: int | None = option(2000, "training images (None: all)", type=int, check=AT_LEAST_ONE)
    gauss: float = option(0.1, "variance of the Gaussian noise on the input", type=float, check=POSITIVE)
    divergence: float = option(1.0, "weight of the divergence after warming up", type=float, check=NOT_NEGATIVE)
    warm_up: float = option(
        0.3,
        "part of the training in which that weight grows",
        type=float,
        check=(lambda part: 0 <= part <= 1, "from 0 to 1"),
    )
    posterior_lr: float = option(
        10.0, "how many times --lr the posteriors' spreads and angles learn by", type=float, check=POSITIVE
    )

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": full(seeds=5, networks=tuple(LENETS), size=None, posterior_lr=1.0),
        "tiny": tiny(networks=("lenet-300-100", "lenet-5"), size=60),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=VariationalSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Train every model on every network, print the table and write the figures."""
    chosen = settings.from_arguments(arguments, VariationalSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    record = Record(folder, NAME, chosen, extending=("networks", "models"))
    places = list(itertools.product(range(chosen.seeds), chosen.networks, chosen.models))
    runs = []
    with progress(len(places), "runs") as bar:
        for seed, network, model in places:
            bar.set_description(f"{model} {network}, seed {seed}")
            place = {"network": network, "model": model, "seed": seed}
            runs.append(place | record.run(place, partial(one_run, data, chosen, **place)))
            bar.update()
    text = describe(runs)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    content = {"study": NAME, "settings": asdict(chosen), "versions": report.versions(chosen.device), "runs": runs}
    report.write_json(folder / "results.json", content)
    for run in runs:
        if run["posterior"] and run["seed"] == 0 and run["network"] == chosen.networks[0]:
            title = f"{run['network']}, {_LABELS[run['model']]}, first layer, {data.name}"
            posterior_drawing.draw_posteriors(run["posterior"], folder / f"figure6-{run['model']}.png", title=title)
    print(f"\n{text}\n\nwritten: figure6-*.png, table.md, results.json in {folder}")


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
    return kinds.converted(dense, "variational", sampling=sampling)


def one_run(data: ImageData, chosen: VariationalSettings, *, network: str, model: str, seed: int) -> dict[str, Any]:
    """Train one model. Accuracies on the test images as fractions, what was pruned, and the first layer's posterior."""
    size = min(chosen.size or len(data.train_labels), len(data.train_labels))
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed + 2**31))
    used = order[:size].to(data.train_labels.device)
    plain = LENETS[network](data.shape, data.classes, seed=seed).to(used.device)
    made = make_model(plain, model, chosen.gauss)
    steps = chosen.epochs * -(-size // chosen.batch_size)

    def loss(trained: nn.Module, logits: Tensor, labels: Tensor, step: int) -> Tensor:
        weight = chosen.divergence * noisy.warm_up(step, round(chosen.warm_up * steps))
        return noisy.elbo_loss(cross_entropy(logits, labels), trained, size, weight)

    started = time.perf_counter()
    fit.train(
        made, data.train_images[used], data.train_labels[used], epochs=chosen.epochs, batch_size=chosen.batch_size,
        lr=chosen.lr, seed=seed, loss=loss, faster={name: chosen.posterior_lr for name in _POSTERIOR},
    )  # fmt: skip
    result: dict[str, Any] = {"seconds": time.perf_counter() - started, "posterior": None}
    result |= fit.accuracies(made, data.test_images, data.test_labels, samples=chosen.samples, seed=seed)
    layers = [layer for layer in made.modules() if isinstance(layer, Variational)]
    if layers:
        result["posterior"] = posterior(layers[0])
        result["agreement"] = agreement(layers)
        result["vectors"] = sum(layer.neurons for layer in layers)
        result["pruned"] = sum(noisy.prune(made).values())
        found = fit.accuracies(made, data.test_images, data.test_labels, samples=1, seed=seed)
        result["after_pruning"] = found["deterministic"]
    return result


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
def agreement(layers: Sequence[Variational]) -> float:
    """Rank correlation, over all weight vectors, of ln alpha with how close to uniform the angle's posterior is."""
    half_pi = torch.pi / 2
    noise = torch.cat([layer.log_alpha() for layer in layers])
    angle = [noisy.truncated_normal_divergence(*layer.angle_posterior(), 0.0, half_pi) for layer in layers]
    ranks = [values.double().argsort().argsort().double() for values in (noise, -torch.cat(angle))]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def describe(runs: Sequence[dict[str, Any]]) -> str:
    """Table 3 as the thesis has it, then all that was measured; percent, mean ± deviation over seeds."""
    networks = list(dict.fromkeys(run["network"] for run in runs))
    models = list(dict.fromkeys(run["model"] for run in runs))
    by_place = {
        (network, model): [run for run in runs if (run["network"], run["model"]) == (network, model)]
        for network, model in itertools.product(networks, models)
    }
    table = [
        [network, *(report.percent([run["ensemble"] for run in by_place[network, model]]) for model in models)]
        for network in networks
    ]
    rows = []
    for (network, model), mine in by_place.items():
        ways = [report.percent([run[way] for run in mine]) for way in fit.WAYS]
        pruned = ["-", "-", "-"]
        if all("pruned" in run for run in mine):
            pruned = [
                report.percent([run["pruned"] / run["vectors"] for run in mine]),
                report.percent([run["after_pruning"] for run in mine]),
                report.plus_minus([run["agreement"] for run in mine], 2),
            ]
        seconds = report.plus_minus([run["seconds"] for run in mine], 0)
        rows.append([network, _LABELS[model], *ways, *pruned, seconds])
    header = ["network", "model", *fit.WAYS, "pruned", "deterministic, pruned", "rank correlation", "training, s"]
    return "\n\n".join(
        [
            "Table 3, test accuracy of ensembles:",
            report.markdown_table(["network", *(_LABELS[model] for model in models)], table),
            "By way of predicting; share of weight vectors pruned; rank correlation of ln α with uniformity of angle:",
            report.markdown_table(header, rows),
        ]
    )
