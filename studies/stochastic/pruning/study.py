"""Pruning of stochastic networks (SE-SNN, section 4.1, Tables 1 to 3, and appendices B.1 and B.2).

A network with stochastic hidden layers is trained with the max-entropy regularizer of equation 5, beside a
deterministic one (the baseline) from the same means and batches. Both are pruned by the same pipeline: all neurons that
never fire on the training images go in one step; then, in a loop, fine-tuning and removal of the least important
neuron by the Taylor criterion (Molchanov et al., 2017b), until the target's share of multiplications is left; then
fine-tuning. The deviation branches are dropped before; --network mlp has its inputs pruned as well. --criterion entropy
takes the neurons of the largest mean log sigma, as it was before the branches were dropped, in place of Taylor's;
with --loop-noise True the branches stay until the end, noise and regularizer on.

Several --weights or --margins are the sweep of Figure B.1; --network mlp --noise-rate 0.4 is appendix B.2. Errors are
of clean test labels. No setting was chosen by the test set; held-out training images say which of a run's networks is
still good.

Written to --out: table.md, pruning.png and results.json.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from studies.settings import SOME, Count, Finite, NotNegative, Positive, Share
from studies.stochastic.pruning.loop import BASELINE, SE_SNN, WAY, one_run
from studies.stochastic.pruning.networks import NetworkName
from studies.stochastic.pruning.report import report
from studies.study import Context, ImageStudy, Row

_Part = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Pruning(ImageStudy):
    """The settings of stochastic-pruning."""

    network: NetworkName = "lenet5"
    """network"""
    width: Positive = 1.0
    """what the network's numbers of neurons are multiplied by"""
    methods: tuple[Literal["baseline", "SE-SNN"], ...] = (BASELINE, SE_SNN)
    """what is trained before pruning"""
    weights: tuple[NotNegative, ...] = (1e-4,)
    """weights of the regularizer; each is trained with each margin"""
    margins: tuple[Finite, ...] = (math.log(4),)
    """margins b; the paper's "4" is read as log 4, as its "16" is as log 16"""
    over: Literal["neuron", "sample", "element"] = "neuron"
    """what the regularizer averages first: equation 5, 6 or 7"""
    reduction: Literal["mean", "sum"] = "mean"
    """of the regularizer over neurons: as the equations print it, or a sum"""
    initial_deviation: Positive | None = None
    """sigma at the start, everywhere the same (None: at random, as in the paper; VGG needs a small one)"""
    noise_rate: Share = 0.0
    """share of training labels flipped, each class to one other"""
    epochs: Count = 20
    """passes over the training images before pruning"""
    batch_size: Count = 64
    """images a step"""
    lr: Positive = 1e-3
    """Adam's learning rate before pruning, falling over the second half"""
    target: _Part = 0.0266
    """share of the multiplications at which the loop stops (the paper's 0.061 of 2.293 million)"""
    at_once: Share = 0.03
    """share of the remaining neurons that one turn of the loop removes, at least one; 0: the paper's one"""
    criterion: Annotated[tuple[Literal["taylor", "entropy"], ...], SOME] = ("taylor",)
    """which neurons the loop removes first: those of the least Taylor importance, or of stochastic layers those of the
    largest entropy (the paper's introduction; inputs then stay); with several SE-SNN is pruned by each, the baseline's
    are always Taylor's"""
    loop_noise: Annotated[tuple[bool, ...], SOME] = (False,)
    """whether SE-SNN keeps its noise and its regularizer in the loop, until the means are judged; or both ways"""
    flops_weight: NotNegative = 1.0
    """how much of the share of multiplications that a neuron's removal saves is taken off its importance"""
    updates: Count = 30
    """steps of fine-tuning in one turn"""
    tune_lr: Positive = 0.01
    """learning rate of fine-tuning, SGD with momentum 0.9"""
    last_epochs: Annotated[int, Field(ge=0)] = 5
    """passes of fine-tuning after the loop, the learning rate falling to zero"""
    every: Count = 4
    """turns between two measured points"""
    validation: _Part = 0.1
    """share of the training images held out"""
    tolerance: NotNegative = 0.01
    """validation error above the unpruned network's that the table's smallest network may have"""

    presets = {
        "tiny": {
            "epochs": 1, "seeds": 1, "batch_size": 50, "updates": 1, "at_once": 0.2, "every": 2, "target": 0.2,
            "last_epochs": 1,
        },
        "quick": {"seeds": 2},
        "paper": {"data": "mnist", "epochs": 60, "at_once": 0.0, "updates": 100, "last_epochs": 20, "seeds": 5},
    }  # fmt: skip
    extends = ("methods", "weights", "margins", "criterion", "loop_noise", "tolerance")
    packages = ("torch-pruning",)
    report = report

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first. The baseline, which has no regularizer and no noise, is made once a seed, with weight and margin
        0. All ways of pruning SE-SNN start from the same trained network."""
        ways = list(itertools.product(self.weights, self.margins, self.criterion, self.loop_noise))
        for seed, method in itertools.product(range(self.seeds), self.methods):
            for way in [(0.0, 0.0, "taylor", False)] if method == BASELINE else ways:
                yield {"method": method, **dict(zip(WAY, way)), "seed": seed}

    def run(self, context: Context, **cell: Any) -> dict[str, Any]:
        """One network, trained and pruned."""
        return one_run(context.prepared, self, **cell, once=context.once, advance=context.advance)

    def summary(self, row: Row) -> str:
        """``2-8-11, test error 3.1%``."""
        end = row["points"][-1]
        return f"{'-'.join(map(str, end['widths']))}, test error {end['test_error']:.1%}"
