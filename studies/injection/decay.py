"""Decay of noise weights and losses, and fixed against redrawn noise: Figure 1, center and right, of Levi et al. 2022.

Three hidden layers of 1024 ReLUs on Fashion-MNIST, cross-entropy, plain SGD with eta = 0.05 and batches of 128
(appendix B), a node at the first layer. The paper trains to 100 % training accuracy on all images: many hours on two
cores (--preset paper); the quick preset has fewer images, epochs and strengths.

Written to --out: table.md, decay.png and results.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from nvrm_fast.probe import PhaseDiagram
from nvrm_fast.probe.phases import DECAY
from studies import StudyError, tables
from studies.injection import drawing, problems
from studies.injection.phases import evenly
from studies.injection.problems import InjectionStudy, Problem, Range, TwoOrMore
from studies.settings import Count
from studies.study import Context, Report, Row

KINDS = ("redrawn", "fixed")


@dataclass(frozen=True, kw_only=True)
class Decay(InjectionStudy):
    """The settings of injection-decay."""

    train_images: Count | None = 2000
    """how many training images (None: all)"""
    epochs: Count = 20
    """passes over the training images"""
    sigmas: Range = (4.0, 128.0)
    """the weakest and the strongest noise"""
    networks: TwoOrMore = 6
    """strengths from one to the other"""
    records: Annotated[int, Field(ge=10)] = 30
    """points of a curve"""
    shown: Count | None = None
    """which of them the center shows, from 1 (None: the last one in decay)"""
    width: Count = 1024
    """N_w"""

    presets = {
        "tiny": {"data": "mnist-5000", "width": 16, "train_images": 500, "epochs": 4, "networks": 3},
        "quick": {},
        "paper": {"train_images": None, "epochs": 100, "networks": 10, "sigmas": (0.5, 256.0), "records": 60},
    }
    axes = {"kind": KINDS}

    def prepare(self) -> Problem:
        """The images; refuses a range that does not rise, and a strength that there is not."""
        low, high = self.sigmas
        if low >= high:
            raise StudyError(f"--sigmas is {low} {high}: choose two rising numbers above 0")
        if self.shown is not None and self.shown > self.networks:
            raise StudyError(f"--shown is {self.shown}: choose from 1 to {self.networks}")
        return problems.problem(self, "ce")

    def run(self, context: Context, *, kind: str, seed: int) -> dict[str, Any]:
        """A scan, as ``PhaseDiagram.to_dict``."""
        sigmas = evenly(*self.sigmas, self.networks)
        return problems.scanned(context, kind, sigmas, "ce", seed, hidden=3, kind=kind, records=self.records)

    def report(self, rows: list[Row]) -> Report:
        """Both diagrams in words, decay times, and the figure."""
        redrawn, fixed = (PhaseDiagram.from_dict(tables.select(rows, kind=kind)[0]) for kind in KINDS)
        images = f"{rows[0]['train_images']} training images"
        text = (
            f"{images}, {self.epochs} epochs, {sum(row['seconds'] for row in rows):.0f} s\n\n"
            f"Redrawn noise:\n\n{redrawn.describe()}\n\nFixed noise:\n\n{fixed.describe()}\n\n"
            f"Decay times in epochs, [95 % bounds]:\n\n{times_table(redrawn, fixed)}"
        )
        decaying = [k for k, phase in enumerate(redrawn.phases) if phase == DECAY]
        shown = self.shown - 1 if self.shown else decaying[-1] if decaying else 0
        title = (
            f"{self.data}, {images}, 3 hidden layers of {self.width}, CE, η = {self.lr:g}, batches of {self.batch_size}"
        )
        return Report(text, {"decay.png": drawing.draw_decay(redrawn, fixed, shown, title)})


def times_table(redrawn: PhaseDiagram, fixed: PhaseDiagram) -> str:
    """tau_noise for both kinds of noise beside tau_loss, one row a strength."""
    lines = []
    for k, sigma in enumerate(redrawn.sigmas):
        one, other = redrawn.decay_times(k), fixed.decay_times(k)
        fits = (one["noise"], other["noise"], one["train loss"], one["test loss"])
        lines.append(
            [f"{sigma:.4g}", redrawn.phases[k], fixed.phases[k], *("-" if f is None else str(f) for f in fits)]
        )
    header = ["sigma", "phase, redrawn", "phase, fixed", "tau_noise, redrawn", "tau_noise, fixed"]
    return tables.markdown([*header, "tau_loss, training", "tau_loss, test"], lines)
