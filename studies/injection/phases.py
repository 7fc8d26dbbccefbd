"""The four phases of a network with an injection node: Figures 2 (bottom row) and 3 of Levi et al. 2022.

One hidden layer of 1024 ReLUs on Fashion-MNIST, plain SGD, a node at the first hidden layer (appendix B); the noise
strengths are those of Table 1, in its units, and with --loss mse two more, where this network has its decay and its
catapult. All networks train at once. The bar on top is a shorter scan over many strengths. The quick preset is the
paper's.

Written to --out: table.md, phases.png and results.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from nvrm_fast.probe import NoiseInjection, PhaseDiagram, local_hessian_trace, update_sides
from studies import tables
from studies.injection import drawing, problems
from studies.injection.problems import LOSSES, InjectionStudy, Loss, Problem, TwoOrMore
from studies.seeds import derive
from studies.settings import Count, Positive
from studies.study import Context, Report, Row

#: Table 1: sigma^2 in units of d_input / (N_w eta) for MSE, d_input / eta for CE; those the table lacks are ours.
TABLE_1 = {"mse": (1e-4, 30.0, 47.0, 50.0), "ce": (1e-4, 0.1, 1.0, 1.8)}
OURS = {"mse": (25.0, 40.0), "ce": ()}
#: The bar's strengths: half of them evenly in the logarithm of the first range, half in the second, which is narrower
#: because the catapult is.
BAR = {"mse": ((1e-4, 8.0), (12.0, 60.0)), "ce": ((1e-4, 0.03), (0.06, 2.4))}


@dataclass(frozen=True, kw_only=True)
class Phases(InjectionStudy):
    """The settings of injection-phases."""

    lr: Positive = 0.01
    """eta"""
    batch_size: Count = 1000
    """images a step"""
    epochs: Count = 30
    """passes over the training images"""
    loss: Loss = "mse"
    """mse: Figure 2; ce: Figure 3"""
    strengths: tuple[Positive, ...] | None = None
    """sigma^2 in Table 1's units (None: Table 1 and, for mse, 25 and 40)"""
    kind: Literal["redrawn", "fixed"] = "redrawn"
    """noise"""
    width: Count = 1024
    """N_w"""
    bar_networks: TwoOrMore = 16
    """strengths in the bar"""
    bar_epochs: TwoOrMore = 6
    """epochs of the bar's scan"""

    @property
    def panels(self) -> list[float]:
        """The strengths of the panels."""
        return sorted(self.strengths or TABLE_1[self.loss] + OURS[self.loss])

    @property
    def bar(self) -> list[float]:
        """The strengths of the bar."""
        wide, narrow = BAR[self.loss]
        half = self.bar_networks // 2
        return evenly(*wide, half) + evenly(*narrow, self.bar_networks - half)

    presets = {
        "tiny": {
            "data": "mnist-5000",
            "width": 16,
            "batch_size": 500,
            "epochs": 2,
            "bar_networks": 4,
            "bar_epochs": 2,
            "train_images": 1000,
        },
        "quick": {},
        "paper": {},
    }
    axes = {"what": ("panels", "bar", "update")}  # both scans, and eq. 2 before the first step

    def prepare(self) -> problems.Problem:
        return problems.problem(self, self.loss)

    def run(self, context: Context, *, what: str, seed: int) -> dict[str, Any]:
        """A scan, as ``PhaseDiagram.to_dict``, or what ``eq2`` finds."""
        problem = context.prepared
        unit = problem.inputs / self.lr / (self.width if self.loss == "mse" else 1)
        sigmas = [math.sqrt(value * unit) for value in (self.bar if what == "bar" else self.panels)]
        if what == "update":
            model = problems.network(
                problem.inputs, problem.classes, hidden=1, width=self.width, seed=derive(seed, "weights")
            )
            how = {"lr": self.lr, "batch_size": self.batch_size, "seed": derive(seed, "update")}
            return eq2(model.to(self.device), problem, self.loss, sigmas, **how)
        plan = {"epochs": self.bar_epochs, "records": 15} if what == "bar" else {"records": 60}
        return problems.scanned(context, what, sigmas, self.loss, seed, hidden=1, kind=self.kind, **plan)

    def report(self, rows: list[Row]) -> Report:
        """Both diagrams in words, eq. 2's table, and the figure."""
        panels_row, bar_row, update_row = (tables.select(rows, what=what)[0] for what in ("panels", "bar", "update"))
        panels, bar = PhaseDiagram.from_dict(panels_row), PhaseDiagram.from_dict(bar_row)
        text = (
            f"{self.loss.upper()}, {self.kind} noise, {panels_row['train_images']} training images; "
            f"panels {panels_row['seconds']:.0f} s, bar {bar_row['seconds']:.0f} s, {self.threads} threads\n\n"
            f"{panels.describe()}\n\nThe bar's scan, {self.bar_epochs} epochs:\n\n{bar.describe()}\n\n"
            f"Eq. 2 (without its 1/2, see probe.UpdateSides) before the first step:\n\n{eq2_table(update_row)}"
        )
        names = [f"{value:g} units" + (", Table 1" if value in TABLE_1[self.loss] else "") for value in self.panels]
        figure = drawing.draw_phases(
            panels,
            names,
            bar,
            f"{self.data}, 1 hidden layer of {self.width}, {self.loss.upper()}, {self.kind} noise, "
            f"η = {self.lr:g}, batches of {self.batch_size}",
            f"Phases found by a scan of {self.bar_networks} strengths over {self.bar_epochs} epochs; "
            "diamonds: the panels",
        )
        return Report(text, {"phases.png": figure})


def evenly(low: float, high: float, count: int) -> list[float]:
    """So many numbers from low to high, evenly in their logarithm."""
    return torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64).tolist()


def eq2(
    model: nn.Module, problem: Problem, loss: str, sigmas: Sequence[float], *, lr: float, batch_size: int, seed: int
) -> dict[str, Any]:
    """The two sides of eq. 2 on a real network before training: <Tr H>, and by strength what the second order leaves
    out of W_NI's update and which of its two terms is larger.

    Args:
        model: at its start; layer "0" gets the node for as long as this takes.
        problem, loss: the data and a key of LOSSES; the first batch_size training examples are the batch.
        sigmas: noise strengths.
        lr: eta.
        seed: of W_NI and of the noise.
    """
    inputs, targets = (part[:batch_size] for part in problem.train)
    function = LOSSES[loss][0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        injection = NoiseInjection(model, "0", 1.0)
    found = []
    with injection:
        trace, error = local_hessian_trace(model, injection, function, inputs, targets, samples=30)
        for sigma in sigmas:
            injection.sigma = sigma
            eps = injection.draw(len(inputs), seed=seed)
            sides = update_sides(model, injection, function, inputs, targets, eps, lr)
            values = {
                "measured": float(sides.measured.norm()),
                "predicted": float((sides.gradient_term + sides.hessian_term).norm()),
                "left_out": float(sides.residual),
                "hessian_share": float(sides.hessian_share),
            }
            found.append({"sigma": sigma} | {k: v if math.isfinite(v) else None for k, v in values.items()})
    return {"trace": float(trace), "trace_error": float(error), "sides": found}


def eq2_table(found: dict[str, Any]) -> str:
    """One row a strength."""

    def told(name: str, form: str) -> tables.Column:
        return tables.words(lambda one: "-" if one[name] is None else form.format(one[name]))

    columns = {
        "sigma": tables.first("{sigma:.4g}"),
        "step of W_NI, measured": told("measured", "{:.3g}"),
        "eq. 2 on this batch": told("predicted", "{:.3g}"),
        "left out": tables.words(lambda one: "-" if one["left_out"] is None else f"{100 * one['left_out']:.2g} %"),
        "Hessian term / gradient term": told("hessian_share", "{:.2g}"),
    }
    table = tables.table(found["sides"], ["sigma"], columns)
    return f"<Tr H> = {found['trace']:.3g} ± {found['trace_error']:.1g}\n\n{table}"
