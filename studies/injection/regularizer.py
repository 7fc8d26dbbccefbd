"""Noise injection nodes as a regularizer: how well trained networks bear perturbed inputs, beside other remedies.

"Noise injection node regularization for robust learning" (Levi, Bloch, Freytsis and Volansky, ICLR 2023, arXiv
2210.15764): a node whose noise is so strong that it drives the first steps is said to leave a network that bears
perturbed inputs better, most of all unstructured noise, and better than dropout or an L2 penalty in some cases. The
network and the node are those of injection-phases with cross-entropy; the node's strongest noise is a catapult (the
loss rises at first), and half as much again diverges. Training on noisy inputs stands beside, which knows the
perturbation of the test.

Every method at each of its strengths, so that nothing is chosen. Written to --out: table.md, robustness.png and
results.json.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast.probe import NoiseInjection
from studies import figures, fit, models, tables
from studies.injection import problems
from studies.injection.problems import InjectionStudy, Problem
from studies.seeds import derive
from studies.settings import SOME, Count, Positive
from studies.study import Context, Report, Row

#: Method -> what it is called, and its strengths. A node's are sigma^2 in Table 1's units, d_input / eta.
METHODS: dict[str, tuple[str, tuple[float, ...]]] = {
    "sgd": ("SGD", (0.0,)),
    "node": ("injection node, σ² in d_input / η", (0.03, 0.1, 0.3)),
    "dropout": ("dropout, probability", (0.2, 0.5, 0.8)),
    "decay": ("L2 penalty", (1e-4, 1e-3, 1e-2)),
    "inputs": ("noisy inputs, standard deviation", (0.25, 0.5, 1.0)),
}
SHIFT = "shifted"


@dataclass(frozen=True, kw_only=True)
class Regularizer(InjectionStudy):
    """The settings of injection-regularizer."""

    threads: Count = 1
    """CPU threads of each process; the last digits of all numbers depend on it"""
    seeds: Count = 5
    """how many trainings of each kind, each with its own weights, batches and noise; --seed is that of the split"""
    train_images: Count | None = 6000
    """how many training images (None: all)"""
    test_images: Count = 5000
    """how many test images"""
    epochs: Count = 30
    """passes over the training images"""
    width: Count = 512
    """N_w"""
    noise: Annotated[tuple[Positive, ...], SOME] = (0.25, 0.5, 1.0, 2.0)
    """standard deviations of the noise on test inputs, which are standardized; one or more"""
    shift: Count = 2
    """pixels by which test images are moved, to the right and down"""

    presets = {
        "tiny": {"data": "mnist-5000", "width": 16, "train_images": 300, "test_images": 200, "epochs": 1, "seeds": 2},
        "quick": {"seeds": 2, "epochs": 15},
        "long": {},
        "paper": {"train_images": None, "epochs": 100, "width": 1024, "test_images": 28_000},
    }

    def prepare(self) -> Problem:
        return problems.problem(self, "ce")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first, then methods, each at its strengths."""
        for seed, (method, (_, strengths)) in itertools.product(range(self.seeds), METHODS.items()):
            for strength in strengths:
                yield {"method": method, "strength": strength, "seed": seed}

    def run(self, context: Context, *, method: str, strength: float, seed: int) -> dict[str, Any]:
        """One training, and the accuracies of the network that it leaves. node_norm: None where there is no node."""
        problem: Problem = context.prepared
        images, labels = problem.train
        size = {"hidden": 1, "width": self.width, "seed": derive(seed, "weights")}
        network = problems.network(problem.inputs, problem.classes, **size).to(self.device)
        node = None
        if method == "node":
            with fit.seeded(self.device, derive(seed, "noise weights")):
                node = NoiseInjection(network, "0", sigma=math.sqrt(strength * problem.inputs / self.lr))
        elif method == "dropout":
            network = models.with_dropout(network, strength)
        decay = strength if method == "decay" else 0.0
        optimizer = torch.optim.SGD(network.parameters(), lr=self.lr, weight_decay=decay)
        start = None if node is None else norm(node)

        def loss_of(batch: Tensor) -> Tensor:
            inputs = images[batch]
            if method == "inputs":
                inputs = inputs + strength * torch.randn_like(inputs)
            return cross_entropy(network(inputs), labels[batch])

        losses = []
        for epoch in fit.fit(fit.descent(optimizer, loss_of), len(labels), self, seed, self.device):
            losses.append(epoch.loss if math.isfinite(epoch.loss) else None)
            context.advance(1 / self.epochs)
        return {
            "accuracy": self.accuracies(network, problem, derive(seed, "test noise")),
            "training": fit.accuracy(network, images, labels),
            "loss": losses,
            "node_norm": None if node is None else [start, norm(node)],
        }

    def accuracies(self, network: nn.Module, problem: Problem, seed: int) -> dict[str, float]:
        """Of test inputs as they are ("0"), under each noise (by its standard deviation) and moved (SHIFT)."""
        inputs, labels = (part[: self.test_images] for part in problem.test)
        side = math.isqrt(inputs.shape[1])
        moved = inputs.view(-1, side, side).roll((self.shift, self.shift), (1, 2)).flatten(1)
        generator = torch.Generator(self.device).manual_seed(seed)
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device)
        perturbed = {"0": inputs, **{f"{b:g}": inputs + b * noise for b in self.noise}, SHIFT: moved}
        return {name: fit.accuracy(network, each, labels) for name, each in perturbed.items()}

    def report(self, rows: list[Row]) -> Report:
        """The table, the differences from SGD and the figure."""
        by = ["method", "strength"]
        place: dict[str, str | tables.Column] = {
            "method": tables.words(lambda row: METHODS[row["method"]][0]), "strength": "strength"
        }  # fmt: skip
        named = {"0": "clean", **{f"{b:g}": f"noise {b:g}" for b in self.noise}, SHIFT: f"moved {self.shift} pixels"}
        of = {name: (lambda row, name=name: row["accuracy"][name]) for name in named}
        accuracies = {heading: tables.shares(of[name]) for name, heading in named.items()}
        base = tables.select(rows, method="sgd")
        others = [row for row in rows if row["method"] != "sgd"]
        above = {heading: tables.above(of[name], base) for name, heading in named.items()}
        text = (
            f"{self.data}, {self.train_images or 'all'} training images, {self.epochs} epochs, one hidden layer of "
            f"{self.width}, η = {self.lr:g}, batches of {self.batch_size}. Test accuracy in percent on "
            f"{self.test_images} images, mean ± standard deviation over seeds, their number: {self.seeds}:\n\n"
            f"{tables.table(rows, by, place | {'training': tables.shares('training')} | accuracies)}\n\n"
            f"Above SGD, paired by seeds, 95 % intervals:\n\n{tables.table(others, by, place | above)}\n\n"
            f"Norm of the node's weights, before and after training:\n\n{norms(tables.select(rows, method='node'))}"
        )
        return Report(text, {"robustness.png": draw(self, rows)})

    def summary(self, row: Row) -> str:
        return f"clean {row['accuracy']['0']:.1%}"


def norm(node: NoiseInjection) -> float | None:
    """Of the weights with which a node's noise reaches the network; None once they diverged."""
    (weight,) = node.parameters()
    value = float(weight.detach().norm())
    return value if math.isfinite(value) else None


def norms(rows: list[Row]) -> str:
    """A line a strength."""
    columns: dict[str, str | tables.Column] = {"σ² in d_input / η": "strength"}
    for place, heading in enumerate(("before", "after")):
        columns[heading] = tables.means(lambda row, place=place: row["node_norm"][place], 3)
    return tables.table(rows, ["strength"], columns)


def draw(settings: Regularizer, rows: list[Row]) -> Figure:
    """A panel a method: accuracy against the noise on the inputs, a line a strength, and SGD in each of them."""
    methods = [name for name in METHODS if name != "sgd"]
    scales = [0.0, *settings.noise]
    figure, panels = figures.new_figure(
        1, len(methods), width=3.4 * len(methods), height=4.2, sharex=True, sharey=True,
        title=f"Test accuracy under noise on the inputs\n{settings.data}, {settings.seeds} seeds",
    )  # fmt: skip
    for panel, name in zip(panels[0], methods):
        lines = tables.groups([row for row in rows if row["method"] in ("sgd", name)], "method", "strength")
        shades = iter(figures.SHADES)
        for (method, strength), runs in lines.items():
            values = [[run["accuracy"][f"{scale:g}"] for run in runs] for scale in scales]
            plain = method == "sgd"
            look: dict[str, Any] = {"color": figures.COLORS[0] if plain else next(shades), "marker": "o"}
            figures.over_scale(panel, scales, values, label="SGD" if plain else f"{strength:g}", **look)
        figures.name_axes(panel, METHODS[name][0], "standard deviation of the noise")
        panel.legend(fontsize=8.5)
    return figure
