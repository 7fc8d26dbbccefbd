"""The linear model's four phases, and how far its decay follows eq. 4: Figure 2, top row, of Levi et al. 2022.

Solves eq. 3 with the settings of appendix B: eta = 0.01, M = 1, w1 drawn from N(0, 1), w0 and the noise weight from
N(0, 1 / 100). One noise strength a phase, then a scan of strengths and starts against the predicted boundaries.

Written to --out: table.md, linear.png and results.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nvrm_fast.noise import noise
from nvrm_fast.probe import linear
from nvrm_fast.probe.phases import CATAPULT, DECAY, DECOUPLED, DIVERGENT, classify
from studies import tables
from studies.injection import drawing
from studies.injection.problems import Seed, TwoOrMore
from studies.seeds import derive
from studies.settings import Count, Positive
from studies.study import Context, Report, Row, Study

#: One typical start for the figure: one standard deviation each.
START = linear.Weights(0.1, 1.0, 0.1)


@dataclass(frozen=True, kw_only=True)
class Linear(Study):
    """The settings of injection-linear."""

    lr: Positive = 0.01
    """eta"""
    batch_size: Count = 128
    """|B|"""
    steps: TwoOrMore = 3000
    """SGD steps"""
    starts: TwoOrMore = 60
    """random initial weights in the scan"""
    seed: Seed = 0
    """of initial weights and noise"""

    presets = {"tiny": {"steps": 200, "starts": 4}, "quick": {}, "paper": {}}

    def cells(self) -> Iterator[dict[str, Any]]:
        """The figure, the boundaries and the exponents."""
        for part in PARTS:
            yield {"part": part, "seed": self.seed}

    def run(self, context: Context, *, part: str, seed: int) -> dict[str, Any]:
        """One of PARTS."""
        return PARTS[part](linear.LinearModel(lr=self.lr, batch_size=self.batch_size), self, seed)

    def report(self, rows: list[Row]) -> Report:
        """Strengths and phases of the figure, both tables, and the figure."""
        curves, scan, fits = (tables.select(rows, part=part)[0] for part in PARTS)
        bounds = curves["boundaries"]
        found = {
            "boundary": "boundary",
            "batches": "batches",
            "median": tables.first("{median:.3f}"),
            "80 % of starts": tables.first("{low:.3f} to {high:.3f}"),
            "found": tables.first("{found} of {starts}"),
        }
        measured = {
            "eta": tables.first("{lr:g}"),
            "batches": "batches",
            "noise weight": tables.first("{noise:.3f} ± {noise_error:.3f}"),
            "loss": tables.first("{loss:.3f} ± {loss_error:.3f}"),
        }
        text = "\n\n".join(
            [
                "sigma of the figure and its phase: "
                + ", ".join(f"{sigma:.3g} ({phase})" for sigma, phase in zip(curves["sigmas"], curves["phases"])),
                "predicted sigma: " + ", ".join(f"{name} {value:.3g}" for name, value in bounds.items()),
                "Boundary found over boundary predicted, over random starts:",
                tables.table(scan["boundaries"], ["boundary", "batches"], found),
                "Exponents of eq. 4, measured over predicted after one decay time (mean ± standard error over starts):",
                tables.table(fits["exponents"], ["lr", "batches"], measured),
            ]
        )
        return Report(text, {"linear.png": drawing.draw_linear(curves, bounds)})


def figure_curves(model: linear.LinearModel, settings: Linear, seed: int) -> dict[str, Any]:
    """A run in each predicted phase: its strength, the phase found, and curves, all steps at first and ever fewer."""
    bounds = linear.boundaries(model, START)
    sigmas = list(figure_sigmas(bounds).values())
    path = linear.simulate(model, START, torch.tensor(sigmas), settings.steps, seed=derive(seed, "noise"))
    count = settings.steps + 1
    kept = np.unique([*range(min(200, count)), *np.geomspace(1, count, 400).astype(int) - 1])
    curves = {
        name: [[v if math.isfinite(v) else None for v in one.tolist()] for one in getattr(path, name)[kept].T]
        for name in ("w0", "w1", "noise", "loss")
    }
    return {
        "boundaries": {name: float(value) for name, value in vars(bounds).items()},
        "sigmas": sigmas,
        "phases": classify(path.noise, path.noisy_loss, path.loss),
        "steps": kept.tolist(),
        **curves,
    }


def figure_sigmas(bounds: linear.Boundaries) -> dict[str, float]:
    """One strength inside each predicted phase; the last two by the exact boundary (see linear.boundaries)."""
    catapult, divergent = float(bounds.catapult), float(bounds.divergent_exact)
    return {
        DECOUPLED: 0.1 * float(bounds.decoupled),
        DECAY: 0.35 * catapult,
        CATAPULT: catapult * (divergent / catapult) ** 0.4,
        DIVERGENT: 1.1 * divergent,
    }


def random_starts(count: int, seed: int) -> linear.Weights:
    """w1 ~ N(0, 1), w0 and the noise weight ~ N(0, 1 / 100); |w1| and the noise weight kept off 0."""
    w0, w1, v = noise(3 * count, seed=seed, stream=1).double().view(3, count)
    away = lambda w: torch.where(w.abs() < 0.2, 0.2 * torch.sign(w), w)  # noqa: E731
    return linear.Weights(w0 * 0.1, away(w1), away(v) * 0.1)


def found_boundary(
    model: linear.LinearModel,
    start: linear.Weights,
    grid: Tensor,
    holds: Callable[[linear.Trajectory], Tensor],
    **how: Any,
) -> Tensor:
    """The first sigma of a grid (sigmas, starts), rising, at which `holds(trajectory)` is true, for every start."""
    path = linear.simulate(model, start, grid, **how)
    true = holds(path)
    first = true.int().argmax(0)
    return torch.where(true.any(0), grid.gather(0, first.unsqueeze(0)).squeeze(0), torch.nan)


def boundaries(model: linear.LinearModel, settings: Linear, seed: int) -> dict[str, Any]:
    """Predicted boundaries against those that simulations show, over random starts: quantiles of their ratio."""
    start = random_starts(settings.starts, derive(seed, "starts"))
    bounds = linear.boundaries(model, start)
    factors = torch.linspace(0.8, 1.2, 41, dtype=torch.float64).unsqueeze(1)

    def rises(path: linear.Trajectory) -> Tensor:  # in the first steps, before learning has moved the weights
        return path.noise[:4].abs().diff(dim=0).amax(0) > 0

    def breaks(path: linear.Trajectory) -> Tensor:
        return ~(path.noisy_loss[-1] < 1e3 * path.noisy_loss[0])

    # The random term alone makes the noise weight grow now and then, so sigma_cat is looked for without it. And
    # without it a noise weight that has died cannot come back to hold w1 down, so sigma_div is looked for with it.
    cases = [("sigma_cat: the noise weight grows", rises, 4, "none", bounds.catapult, bounds.catapult)]
    for fluctuations in ("equation", "samples"):
        for name, predicted in (("exact", bounds.divergent_exact), ("as printed", bounds.divergent)):
            name = f"sigma_div, {name}: training does not recover"
            cases.append((name, breaks, 400, fluctuations, predicted, bounds.divergent_exact))
    drift = drift_over_step(model, start, bounds)
    found = [_spread("sigma_dec: drift over random step is 2", "samples", drift, len(drift))]
    for name, holds, steps, fluctuations, predicted, around in cases:
        how = {"steps": steps, "fluctuations": fluctuations, "seed": derive(seed, "noise")}
        sigma = found_boundary(model, start, factors * around, holds, **how)
        ratio = (sigma / predicted)[~torch.isnan(sigma)]
        found.append(_spread(name, fluctuations, ratio, len(sigma)))
    return {"boundaries": found}


def drift_over_step(model: linear.LinearModel, start: linear.Weights, bounds: linear.Boundaries) -> Tensor:
    """What SGD's first step does to the noise weight at sigma_dec: mean over deviation, over 2 |w_noise|.

    sigma_dec = 2 A~ / B~ compares A~ sigma with B~ sigma^2 w_noise / 2 at |w_noise| = 1; for other noise weights the
    balance lies at sigma_dec / |w_noise|.
    """
    tries = 4000
    sigma = (bounds.decoupled / start.noise.abs()).expand(tries, -1)
    path = linear.simulate(model, start, sigma, 1, fluctuations="samples", seed=7)
    moved = path.noise[1] - path.noise[0]
    return (moved.mean(0) / moved.std(0)).abs() / 2


def _spread(boundary: str, batches: str, ratio: Tensor, starts: int) -> dict[str, Any]:
    low, middle, high = torch.quantile(ratio, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return {
        "boundary": boundary, "batches": batches, "median": middle, "low": low, "high": high,
        "found": len(ratio), "starts": starts,
    }  # fmt: skip


def exponents(model: linear.LinearModel, settings: Linear, seed: int) -> dict[str, Any]:
    """ln(w_noise(t) / w_noise(0)) and ln(L(t) / L(0)) over eq. 4's, at two learning rates: mean and standard error."""
    found = []
    for lr in (model.lr, model.lr / 10):
        for fluctuations in ("none", "equation"):
            small = linear.LinearModel(lr, model.batch_size, model.target, model.sigma_x)
            start = random_starts(settings.starts, derive(seed, "starts"))
            # A decay as fast as the loss's, for two decay times of each start.
            unit, tau = linear.decay_times(small, start, 1.0)
            steps = max(2, int(2 * float(tau.median())))
            how = {"fluctuations": fluctuations, "seed": derive(seed, "noise")}
            path = linear.simulate(small, start, (unit / tau).sqrt(), steps, **how)
            measured = (path.noise / path.noise[0]).abs().log(), (path.loss / path.loss[0]).log()
            one: dict[str, Any] = {"lr": lr, "batches": fluctuations}
            for name, values, predicted in zip(("noise", "loss"), measured, linear.decay_exponents(small, path)):
                at = steps // 2
                ratio = (values[at] / predicted[at])[torch.isfinite(values[at])]
                one |= {name: float(ratio.mean()), f"{name}_error": float(ratio.std()) / math.sqrt(len(ratio))}
            found.append(one)
    return {"exponents": found}


PARTS = {"figure": figure_curves, "boundaries": boundaries, "exponents": exponents}
