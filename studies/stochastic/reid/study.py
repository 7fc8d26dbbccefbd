"""Re-identification with wrong labels (SE-SNN, section 4.3, Table 4, Figures 3b and 3c, appendix A).

A ResNet is trained to tell identities apart whose labels are partly wrong: a share of the training pictures gets the
identity of the picture that looks most like it to a network trained on right labels. In a second stage its last unit
becomes stochastic (or, for the baseline, gets a parallel layer of as many weights) and is trained with the classifier
alone. Then pictures of other identities are searched for: mean average precision and cumulative matching
characteristics by Market-1501's protocol, all in the mode "mean". Every method uses its loss in both stages. At one
seed all methods see the same labels and batches.

--market names your copy of Market-1501. The preset paper is Table 4; quick and tiny take a small network for a few
steps, to see that everything runs on your copy.

Written to --out: table.md, scores.png, sigma.png (Figure 3b), pictures.png (Figure 3c) and results.json.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from studies import StudyError, record
from studies.seeds import derive
from studies.settings import Count, Finite, NotNegative, Positive, Share
from studies.stochastic.methods import BASELINE, FORWARD, METHODS, PLAIN, SE_SNN, MethodName, loss_of
from studies.stochastic.reid import market1501, resnet, stages
from studies.stochastic.reid.market1501 import Market
from studies.stochastic.reid.report import report
from studies.stochastic.reid.resnet import ResNet
from studies.stochastic.reid.stages import Stage, Task
from studies.study import Context, Row, Study

_Pixels = Annotated[int, Field(ge=16)]
#: The settings that decide a network of the first stage.
_OF_THE_FIRST_STAGE = ("market", "network", "weights", "size", "iterations", "batch_size", "lr")


@dataclass(frozen=True, kw_only=True)
class Reid(Study):
    """The settings of stochastic-reid."""

    market: str | None = None
    """folder of Market-1501 in its official layout"""
    network: resnet.NetworkName = "small"
    """network"""
    weights: str | None = "random"
    """what it starts from: random, download (ImageNet's, 98 MB), or a file of torchvision's weights of ResNet-50"""
    size: tuple[_Pixels, _Pixels] = (64, 32)
    """height and width of a picture"""
    strengths: tuple[Share, ...] = (0.0, 0.2)
    """shares of wrong labels"""
    methods: tuple[MethodName, ...] = (BASELINE, SE_SNN)
    """lines of the table; gains are over the first"""
    seeds: Count = 1
    """how many seeds: wrong labels, initialization and batches"""
    iterations: Count = 400
    """steps of the first stage"""
    last_iterations: Count = 200
    """steps of the second stage"""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """pictures a step"""
    lr: Positive = 1e-3
    """Adam's learning rate in the first stage"""
    last_lr: Positive = 5e-3
    """Adam's learning rate in the second stage"""
    weight: NotNegative = 1e-2
    """of the regularizer"""
    margin: Finite = math.log(4)
    """b of equation 6; the paper's "4" is read as log 4"""
    reduction: Literal["mean", "sum"] = "mean"
    """of the regularizer over channels and positions: as equation 6 prints it, or a sum"""
    networks: str | None = None
    """folder that keeps the networks of the first stage (None: in --out), for runs that differ in the second only"""

    presets = {
        "tiny": {"methods": tuple(METHODS), "strengths": (0.0, 0.5), "iterations": 3, "last_iterations": 2,
                 "batch_size": 8},
        "quick": {},
        "paper": {
            "network": "resnet50", "weights": None, "size": (256, 128), "strengths": (0.0, 0.1, 0.2, 0.5),
            "methods": tuple(METHODS), "iterations": 60_000, "last_iterations": 20_000, "lr": 3.5e-4, "last_lr": 5e-4,
            "seeds": 5,
        },
    }  # fmt: skip
    axes = {"strength": "strengths", "method": "methods"}
    extends = ("strengths", "methods", "networks")
    packages = ("pillow",)
    report = report

    def prepare(self) -> Prepared:
        """Reads the names of all pictures."""
        if self.market is None:
            raise StudyError("--market is missing: name the folder of your copy of Market-1501")
        if self.weights is None:
            raise StudyError(
                "--preset paper starts from ImageNet's weights: give --weights FILE (torchvision's of ResNet-50), "
                "--weights download, or --weights random to start at random all the same"
            )
        if self.weights != "random" and self.network != "resnet50":
            raise StudyError(f"--weights {self.weights} are of ResNet-50: add --network resnet50, or leave them out")
        market = market1501.read(self.market)
        return Prepared(market, resnet.weights_file(self.weights), self.size, self.device)

    def run(self, context: Context, *, method: str, strength: float, seed: int) -> dict[str, Any]:
        """Trains one method through both stages and measures it."""
        kind = METHODS[method]
        task = task_of(context, strength, seed)
        network = first_network(context, kind.loss, strength, seed)
        corruption = corruption_of(context, kind.loss, task, strength, seed)
        network, result = stages.second_stage(
            network, task, Stage(self.last_iterations, self.batch_size, self.last_lr), kind, corruption, seed,
            (self.weight, self.margin, self.reduction), _after_step(context),
        )  # fmt: skip
        return result | stages.measure(network, task, context.prepared.market, self.size)

    def summary(self, row: Row) -> str:
        """``mAP 24.2%``."""
        return f"mAP {row['mAP']:.1%}"


@dataclass(frozen=True)
class Prepared:
    """The benchmark and the file of the weights to start from. Training pictures are decoded when they are needed."""

    market: Market
    weights: Path | None
    size: tuple[int, int]
    device: str

    @cached_property
    def pictures(self) -> Tensor:
        """All training pictures, (N, 3, height, width) uint8."""
        return market1501.decode(self.market.train.paths, self.size).to(self.device)

    @cached_property
    def labels(self) -> Tensor:
        """The right ones, (N,) int64 on the CPU."""
        return self.market.train.labels

    @property
    def classes(self) -> int:
        """How many identities are trained on."""
        return int(self.labels.max()) + 1


def _after_step(context: Context) -> Callable[[], object]:
    steps = context.settings.iterations + context.settings.last_iterations
    return lambda: context.advance(1 / steps)


def _once(context: Context, name: str, make: Callable[[], Any]) -> Any:
    """As ``Context.once``, under names that tell the settings of the first stage, since the folder may be shared."""
    settings = context.settings
    made_by = json.dumps([getattr(settings, name) for name in _OF_THE_FIRST_STAGE])
    digest = hashlib.sha256(made_by.encode()).hexdigest()[:12]
    path = Path(settings.networks or context.checkpoints) / f"{digest}-{name}.pt"
    return record.once(path, make, settings.device)


def task_of(context: Context, strength: float, seed: int) -> Task:
    """The training pictures with the labels of one strength and seed."""
    prepared = context.prepared
    similar = torch.arange(len(prepared.labels))
    if strength > 0:
        similar = _once(context, f"similar-{seed}", lambda: most_similar(context, seed)).cpu()
    given, flipped = stages.flip_to_similar(prepared.labels, similar, strength, derive(seed, "labels"))
    return Task(prepared.pictures, given.to(prepared.device), flipped.to(prepared.device), prepared.classes)


def most_similar(context: Context, seed: int) -> Tensor:
    """The place of the most similar picture of another identity, to the network that right labels made."""
    network = first_network(context, PLAIN, 0.0, seed)
    features = stages.over(network, context.prepared.pictures, network.features)
    return stages.most_similar_other(features, context.prepared.labels.to(features.device))


def corruption_of(context: Context, loss: str, task: Task, strength: float, seed: int) -> Tensor | None:
    """What forward correction estimates from the network that was trained by cross entropy on the same labels; None
    for other losses."""
    return stages.corruption_of(first_network(context, PLAIN, strength, seed), task) if loss == FORWARD else None


def first_network(context: Context, loss: str, strength: float, seed: int) -> ResNet:
    """The network of the first stage, which several methods share."""
    settings, prepared = context.settings, context.prepared
    network = resnet.build(settings.network, prepared.classes, derive(seed, "weights"))

    def make() -> dict[str, Tensor]:
        if prepared.weights is not None:
            resnet.load_weights(network, prepared.weights)
        task = task_of(context, strength, seed)
        corruption = corruption_of(context, loss, task, strength, seed)
        stage = Stage(settings.iterations, settings.batch_size, settings.lr)
        stages.first_stage(
            network.to(settings.device), task, stage, loss_of(loss, corruption), seed, _after_step(context)
        )
        return network.state_dict()

    network.load_state_dict(_once(context, f"{loss.replace(', ', '-').replace(' ', '-')}-{strength:g}-{seed}", make))
    return network.to(settings.device).eval()
