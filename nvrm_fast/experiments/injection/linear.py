"""The linear model's four phases, and how far its decay follows eq. 4: Figure 2, top row, of Levi et al. 2022.

Solves eq. 3 with the settings of appendix B: eta = 0.01, M = 1, w1 drawn from N(0, 1), w0 and the noise weight from
N(0, 1 / 100). One noise strength a phase, then a scan of strengths and starts against the predicted boundaries.

Written to --out: linear.png, linear.md and linear.json.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict

import torch
from torch import Tensor

from nvrm_fast.experiments import StudyError, report
from nvrm_fast.experiments.injection import drawing
from nvrm_fast.noise import noise
from nvrm_fast.probe import linear
from nvrm_fast.probe.phases import CATAPULT, DECAY, DECOUPLED, DIVERGENT, classify

HELP = "the linear model of noise injection (Levi et al., Figure 2, top row)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    add = parser.add_argument
    add("--lr", type=float, default=0.01, help="eta (default: %(default)s)")
    add("--batch-size", type=int, default=128, help="|B| (default: %(default)s)")
    add("--steps", type=int, default=3000, help="SGD steps (default: %(default)s)")
    add("--starts", type=int, default=60, help="random initial weights in the scan (default: %(default)s)")
    add("--seed", type=int, default=0, help="of initial weights and noise (default: %(default)s)")
    add("--out", default="runs/injection-linear", metavar="FOLDER", help="where results go (default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Simulate, draw and write."""
    for name in ("steps", "starts"):
        if getattr(arguments, name) < 2:
            raise StudyError(f"--{name} is {getattr(arguments, name)}: choose 2 or more")
    folder = report.output_folder(arguments.out)
    try:
        model = linear.LinearModel(lr=arguments.lr, batch_size=arguments.batch_size)
    except ValueError as error:
        raise StudyError(f"--lr or --batch-size: {error}") from None
    # One typical start for the figure: one standard deviation each.
    start = linear.Weights(0.1, 1.0, 0.1)
    bounds = linear.boundaries(model, start)
    sigmas = figure_sigmas(bounds)
    path = linear.simulate(model, start, torch.tensor(list(sigmas.values())), arguments.steps, seed=arguments.seed)
    phases = classify(path.noise, path.noisy_loss, path.loss)
    table = scan_table(model, arguments)
    fits = exponent_table(model, arguments)
    text = "\n\n".join(
        [
            "sigma of the figure and its phase: "
            + ", ".join(f"{s:.3g} ({found})" for s, found in zip(sigmas.values(), phases)),
            "predicted sigma: " + ", ".join(f"{name} {float(value):.3g}" for name, value in vars(bounds).items()),
            "Boundary found over boundary predicted, over random starts:",
            table,
            "Exponents of eq. 4, measured over predicted after one decay time (mean ± standard error over starts):",
            fits,
        ]
    )
    print(text)
    (folder / "linear.md").write_text(text + "\n", encoding="utf-8")
    content = {
        "study": "injection-linear",
        "settings": {k: v for k, v in vars(arguments).items() if k != "study"} | {"model": asdict(model)},
        "versions": report.versions("cpu"),
        "boundaries": {name: float(value) for name, value in vars(bounds).items()},
        "figure": {"sigmas": sigmas, "phases": phases},
    }
    report.write_json(folder / "linear.json", content)
    drawing.draw_linear(path, list(sigmas.values()), phases, bounds, folder / "linear.png")
    print(f"written: {folder / 'linear.png'}, {folder / 'linear.md'}, {folder / 'linear.json'}")


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


def found_boundary(model: linear.LinearModel, start: linear.Weights, grid: Tensor, holds, **how) -> Tensor:
    """The first sigma of a grid (sigmas, starts), rising, at which `holds(trajectory)` is true, for every start."""
    path = linear.simulate(model, start, grid, **how)
    true = holds(path)
    first = true.int().argmax(0)
    return torch.where(true.any(0), grid.gather(0, first.unsqueeze(0)).squeeze(0), torch.nan)


def scan_table(model: linear.LinearModel, arguments: argparse.Namespace) -> str:
    """Predicted boundaries against those that simulations show, over random starts."""
    start = random_starts(arguments.starts, arguments.seed)
    bounds = linear.boundaries(model, start)
    factors = torch.linspace(0.8, 1.2, 41, dtype=torch.float64).unsqueeze(1)

    def rises(path):  # in the first steps, before learning has moved the weights
        return path.noise[:4].abs().diff(dim=0).amax(0) > 0

    def breaks(path):
        return ~(path.noisy_loss[-1] < 1e3 * path.noisy_loss[0])

    # The random term alone makes the noise weight grow now and then, so sigma_cat is looked for without it. And
    # without it a noise weight that has died cannot come back to hold w1 down, so sigma_div is looked for with it.
    cases = [("sigma_cat: the noise weight grows", rises, 4, "none", bounds.catapult, bounds.catapult)]
    for fluctuations in ("equation", "samples"):
        for name, predicted in (("exact", bounds.divergent_exact), ("as printed", bounds.divergent)):
            name = f"sigma_div, {name}: training does not recover"
            cases.append((name, breaks, 400, fluctuations, predicted, bounds.divergent_exact))
    rows = [["sigma_dec: drift over random step is 2", "samples", *drift_over_step(model, start, bounds), "all"]]
    for name, holds, steps, fluctuations, predicted, around in cases:
        how = {"steps": steps, "fluctuations": fluctuations, "seed": arguments.seed}
        found = found_boundary(model, start, factors * around, holds, **how)
        ratio = (found / predicted)[~torch.isnan(found)]
        rows.append([name, fluctuations, *_spread(ratio), f"{len(ratio)} of {len(found)}"])
    return report.markdown_table(["boundary", "batches", "median", "80 % of starts", "found"], rows)


def drift_over_step(model: linear.LinearModel, start: linear.Weights, bounds: linear.Boundaries) -> tuple[str, str]:
    """What SGD's first step does to the noise weight at sigma_dec: mean over deviation, over 2 |w_noise|.

    sigma_dec = 2 A~ / B~ compares A~ sigma with B~ sigma^2 w_noise / 2 at |w_noise| = 1; for other noise weights the
    balance lies at sigma_dec / |w_noise|.
    """
    tries = 4000
    sigma = (bounds.decoupled / start.noise.abs()).expand(tries, -1)
    path = linear.simulate(model, start, sigma, 1, fluctuations="samples", seed=7)
    moved = path.noise[1] - path.noise[0]
    return _spread((moved.mean(0) / moved.std(0)).abs() / 2)


def _spread(values: Tensor) -> tuple[str, str]:
    low, middle, high = torch.quantile(values, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return f"{middle:.3f}", f"{low:.3f} to {high:.3f}"


def exponent_table(model: linear.LinearModel, arguments: argparse.Namespace) -> str:
    """ln(w_noise(t) / w_noise(0)) and ln(L(t) / L(0)) against eq. 4, at several learning rates."""
    rows = []
    for lr in (model.lr, model.lr / 10):
        for fluctuations in ("none", "equation"):
            small = linear.LinearModel(lr, model.batch_size, model.target, model.sigma_x)
            start = random_starts(arguments.starts, arguments.seed)
            _, tau = linear.decay_times(small, start, 1.0)
            # A decay as fast as the loss's, for two decay times of each start.
            sigma = (linear.decay_times(small, start, 1.0)[0] / tau).sqrt()
            steps = max(2, int(2 * float(tau.median())))
            path = linear.simulate(small, start, sigma, steps, fluctuations=fluctuations, seed=arguments.seed)
            predicted = linear.decay_exponents(small, path)
            measured = (path.noise / path.noise[0]).abs().log(), (path.loss / path.loss[0]).log()
            cells = []
            for m, p in zip(measured, predicted):
                at = steps // 2
                ratio = (m[at] / p[at])[torch.isfinite(m[at])]
                mean, error = float(ratio.mean()), float(ratio.std()) / math.sqrt(len(ratio))
                cells.append(f"{mean:.3f} ± {error:.3f}")
            rows.append([f"{lr:g}", fluctuations, *cells])
    return report.markdown_table(["eta", "batches", "noise weight", "loss"], rows)
