"""What a scan over sigma found: curves, phases, decay times, and their reading in plain words."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .decay import DecayFit, fit_decay
from .phases import CATAPULT, DECAY, DECOUPLED, DIVERGENT, MEANING, Criteria, between, classify


@dataclass(frozen=True)
class PhaseDiagram:
    """Curves of networks that differ in sigma only.

    Args:
        sigmas: one a network.
        steps: (records,) int64, SGD steps before each record.
        steps_an_epoch: SGD steps in one pass over the training examples.
        series: name -> float64 (records, networks): noise_norm, next_norm, training_loss and training_accuracy (on a
            training batch, noise on), train_loss, train_accuracy, test_loss, test_accuracy (noise off).
        criteria: thresholds of the phases.
    """

    sigmas: tuple[float, ...]
    steps: Tensor
    steps_an_epoch: int
    series: dict[str, Tensor]
    criteria: Criteria = Criteria()

    @property
    def epochs(self) -> Tensor:
        """Records' times in epochs, float64."""
        return self.steps.double() / self.steps_an_epoch

    @property
    def phases(self) -> list[str]:
        """The phase of each network; the one with the least noise serves as the undisturbed one."""
        clean = self.series["train_loss"]
        weakest = min(range(len(self.sigmas)), key=lambda k: self.sigmas[k])
        curves = self.series["noise_norm"], self.series["training_loss"], clean
        return cast("list[str]", classify(*curves, self.criteria, undisturbed=clean[:, weakest]))

    def boundaries(self) -> list[tuple[str, str, float, float]]:
        """(from, to, last sigma before, first sigma after) for each change of phase along sigma."""
        return between(self.sigmas, self.phases)

    def decay_times(self, network: int) -> dict[str, DecayFit | None]:
        """tau_noise and tau_loss of one network, in epochs; None where nothing decays.

        A catapult is fitted from the top of its training loss on, since that is where the decay begins, and a test
        loss up to its minimum, since what follows is no decay.
        """
        first = 0
        if self.phases[network] == CATAPULT:
            first = int(self.series["training_loss"][:, network].nan_to_num(math.inf).argmax())
        names = {"noise": "noise_norm", "train loss": "train_loss", "test loss": "test_loss"}
        fits = {}
        for what, name in names.items():
            curve = self.series[name][first:, network]
            end = int(curve.nan_to_num(math.inf).argmin()) + 1 if what == "test loss" else len(curve)
            fits[what] = fit_decay(self.epochs[first : first + end], curve[:end])
        return fits

    def joined(self, other: PhaseDiagram) -> PhaseDiagram:
        """Both diagrams' networks in the order of sigma.

        Raises:
            ValueError: if they were recorded at different steps.
        """
        if not torch.equal(self.steps, other.steps) or self.steps_an_epoch != other.steps_an_epoch:
            raise ValueError("only diagrams recorded at the same steps can be joined")
        sigmas = self.sigmas + other.sigmas
        order = sorted(range(len(sigmas)), key=lambda k: sigmas[k])
        series = {name: torch.cat([values, other.series[name]], 1)[:, order] for name, values in self.series.items()}
        return replace(self, sigmas=tuple(sigmas[k] for k in order), series=series)

    def table(self) -> str:
        """One row a network in the order of sigma, in Markdown that lines up as plain text."""
        header = ["sigma", "phase", "noise weights, end/start", "training loss, peak/start", "test loss, start -> end"]
        header += ["test accuracy", "tau_noise, epochs"]
        rows = []
        for k in sorted(range(len(self.sigmas)), key=lambda k: self.sigmas[k]):
            norm, noisy, test = (self.series[name][:, k] for name in ("noise_norm", "training_loss", "test_loss"))
            finite = noisy[torch.isfinite(noisy)]
            fit = self.decay_times(k)["noise"] if self.phases[k] in (DECAY, CATAPULT) else None
            accuracy = float(self.series["test_accuracy"][-1, k])
            rows.append(
                [
                    f"{self.sigmas[k]:.4g}",
                    self.phases[k],
                    _ratio(norm[-1], norm[0]),
                    _ratio(finite.max() if len(finite) == len(noisy) else torch.tensor(math.inf), noisy[0]),
                    f"{float(test[0]):.3g} -> {float(test[-1]):.3g}",
                    "-" if math.isnan(accuracy) else f"{100 * accuracy:.1f} %",
                    "-" if fit is None else str(fit),
                ]
            )
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        lines = [header, ["-" * width for width in widths], *rows]
        return "\n".join("| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |" for line in lines)

    def reading(self, sigma: float | None = None) -> str:
        """The diagram in plain words; with a sigma, also where it stands."""
        phases = self.phases
        lines = []
        for phase in (DECOUPLED, DECAY, CATAPULT, DIVERGENT):
            inside = sorted(s for s, p in zip(self.sigmas, phases) if p == phase)
            if inside:
                lines.append(f"{phase} ({_range(inside)}): {MEANING[phase]}.")
            else:
                lines.append(f"{phase}: not met between sigma {min(self.sigmas):.4g} and {max(self.sigmas):.4g}.")
        for before, after, low, high in self.boundaries():
            lines.append(f"{before} gives way to {after} between sigma {low:.4g} and {high:.4g}.")
        if sigma is not None:
            nearest = min(range(len(phases)), key=lambda k: abs(self.sigmas[k] - sigma))
            lines.append(f"Your sigma {sigma:.4g}: {phases[nearest]}, {MEANING[phases[nearest]]}.")
            above = sorted(s for s, p in zip(self.sigmas, phases) if p in (CATAPULT, DIVERGENT) and s > sigma)
            if phases[nearest] in (DECOUPLED, DECAY) and above:
                lines.append(f"The noise would have to grow {above[0] / sigma:.2g} times to disturb learning.")
        return "\n".join(lines)

    def describe(self, sigma: float | None = None) -> str:
        """Table and reading."""
        return f"{self.table()}\n\n{self.reading(sigma)}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists, what is not finite as None; `from_dict` takes it back (None becomes NaN)."""

        def plain(rows: list[list[float]]) -> list[list[float | None]]:
            return [[value if math.isfinite(value) else None for value in row] for row in rows]

        return {
            "sigmas": list(self.sigmas),
            "steps": self.steps.tolist(),
            "steps_an_epoch": self.steps_an_epoch,
            "phases": self.phases,
            "series": {name: plain(values.tolist()) for name, values in self.series.items()},
        }

    @staticmethod
    def from_dict(content: dict[str, Any], criteria: Criteria | None = None) -> PhaseDiagram:
        """The diagram that `to_dict` wrote."""
        series = {
            name: torch.tensor([[math.nan if v is None else v for v in row] for row in rows], dtype=torch.float64)
            for name, rows in content["series"].items()
        }
        steps = torch.tensor(content["steps"])
        return PhaseDiagram(tuple(content["sigmas"]), steps, content["steps_an_epoch"], series, criteria or Criteria())

    def save(self, path: str | Path) -> None:
        """`to_dict` as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _ratio(value: Tensor, start: Tensor) -> str:
    ratio = float(value) / float(start) if float(start) else math.nan
    return f"{ratio:.3g}" if math.isfinite(ratio) else "-" if math.isnan(ratio) else "inf"


def _range(inside: list[float]) -> str:
    return f"sigma {inside[0]:.4g}" if len(inside) == 1 else f"sigma {inside[0]:.4g} to {inside[-1]:.4g}"
