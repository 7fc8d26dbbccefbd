"""The four phases of a network with an injection node: Figures 2 (bottom row) and 3 of Levi et al. 2022.

One hidden layer of 1024 ReLUs on Fashion-MNIST, plain SGD, a node at the first hidden layer (appendix B); the noise
strengths are those of Table 1, in its units, and with --loss mse two more, where this network has its decay and its
catapult. All networks train at once. The bar on top is a shorter scan over many strengths.

Written to --out: phases.png, phases.md and phases.json; a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch

from nvrm_fast.experiments import StudyError, report
from nvrm_fast.experiments.injection import drawing, problems
from nvrm_fast.experiments.injection.update import update_table
from nvrm_fast.probe import CheckpointMismatch, PhaseDiagram, Plan, scan

HELP = "the four phases on Fashion-MNIST (Levi et al., Figures 2, bottom row, and 3)"
#: Table 1: sigma^2 in units of d_input / (N_w eta) for MSE, d_input / eta for CE; those the table lacks are ours.
TABLE_1 = {"mse": (1e-4, 30.0, 47.0, 50.0), "ce": (1e-4, 0.1, 1.0, 1.8)}
OURS = {"mse": (25.0, 40.0), "ce": ()}
#: The bar's strengths: half of them evenly in the logarithm of the first range, half in the second, which is narrower
#: because the catapult is.
BAR = {"mse": ((1e-4, 8.0), (12.0, 60.0)), "ce": ((1e-4, 0.03), (0.06, 2.4))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    parser.add_argument(
        "--loss", default="mse", choices=tuple(TABLE_1), help="mse: Figure 2; ce: Figure 3 (default: %(default)s)"
    )
    parser.add_argument(
        "--strengths", type=float, nargs="+", metavar="V",
        help="sigma^2 in Table 1's units (default: Table 1 and, for mse, 25 and 40)",
    )  # fmt: skip
    parser.add_argument("--kind", default="redrawn", choices=("redrawn", "fixed"), help="noise (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1024, help="N_w (default: %(default)s)")
    parser.add_argument("--bar-networks", type=int, default=16, help="strengths in the bar (default: %(default)s)")
    parser.add_argument("--bar-epochs", type=int, default=6, help="epochs of the bar's scan (default: %(default)s)")
    problems.add_arguments(parser, lr=0.01, batch_size=1000, epochs=30, out="runs/injection-phases")


def main(arguments: argparse.Namespace) -> None:
    """Train, draw and write."""
    problems.check(arguments)
    for name in ("bar_networks", "bar_epochs"):
        if getattr(arguments, name) < 2:
            raise StudyError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}: choose 2 or more")
    folder = report.output_folder(arguments.out)
    started = time.perf_counter()
    problem = problems.problem(arguments, arguments.loss)
    strengths = sorted(arguments.strengths or TABLE_1[arguments.loss] + OURS[arguments.loss])
    if min(strengths) <= 0:
        raise StudyError(f"--strengths has {min(strengths)}: choose more than 0")
    unit = problem.inputs / arguments.lr / (arguments.width if arguments.loss == "mse" else 1)
    wide, narrow = BAR[arguments.loss]
    half = arguments.bar_networks // 2
    bar_strengths = _evenly(*wide, half) + _evenly(*narrow, arguments.bar_networks - half)

    def run(values: list[float], epochs: int, name: str, records: int) -> PhaseDiagram:
        plan = Plan(
            tuple(math.sqrt(value * unit) for value in values),
            layer="0", next_layer="2", kind=arguments.kind, lr=arguments.lr, batch_size=arguments.batch_size,
            epochs=epochs, seed=arguments.seed, records=records,
        )  # fmt: skip
        return resumed(arguments, folder / f"{name}.pt", problem, plan, arguments.loss, hidden=1, width=arguments.width)

    diagram = run(strengths, arguments.epochs, "panels", 60)
    seconds = time.perf_counter() - started
    bar = run(bar_strengths, arguments.bar_epochs, "bar", 15)
    bar_seconds = time.perf_counter() - started - seconds
    sigmas = diagram.sigmas
    model = problems.network(problem.inputs, problem.classes, hidden=1, width=arguments.width, seed=arguments.seed).to(
        arguments.device
    )
    how = {"lr": arguments.lr, "batch_size": arguments.batch_size, "seed": arguments.seed}
    update = update_table(model, problem, arguments.loss, sigmas, **how)
    text = (
        f"{arguments.loss.upper()}, {arguments.kind} noise, {len(problem.train[0])} training images; "
        f"panels {seconds:.0f} s, bar {bar_seconds:.0f} s, {arguments.threads} threads\n\n"
        f"{diagram.describe()}\n\nThe bar's scan, {arguments.bar_epochs} epochs:\n\n{bar.describe()}\n\n"
        f"Eq. 2 (without its 1/2, see probe.UpdateSides) before the first step:\n\n{update}"
    )
    print(text)
    (folder / "phases.md").write_text(text + "\n", encoding="utf-8")
    content = {
        "study": "injection-phases",
        "settings": {name: value for name, value in vars(arguments).items() if name != "study"},
        "versions": report.versions(arguments.device),
        "seconds": {"panels": seconds, "bar": bar_seconds},
        "strengths": strengths,
        "panels": diagram.to_dict(),
        "bar": bar.to_dict(),
    }
    report.write_json(folder / "phases.json", content)
    ours = set(strengths) - set(TABLE_1[arguments.loss])
    drawing.draw_phases(
        diagram,
        [f"{value:g}{' units' if value in ours else ' units, Table 1'}" for value in strengths],
        bar,
        f"{arguments.data}, 1 hidden layer of {arguments.width}, {arguments.loss.upper()}, {arguments.kind} noise, "
        f"η = {arguments.lr:g}, batches of {arguments.batch_size}",
        f"Phases found by a scan of {arguments.bar_networks} strengths over {arguments.bar_epochs} epochs; "
        "diamonds: the panels",
        folder / "phases.png",
    )
    print(f"written: {folder / 'phases.png'}, {folder / 'phases.md'}, {folder / 'phases.json'}")


def _evenly(low: float, high: float, count: int) -> list[float]:
    return torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64).tolist()


def resumed(
    arguments: argparse.Namespace, checkpoint: Path, problem: problems.Problem, plan: Plan, loss: str,
    *, hidden: int, width: int,
) -> PhaseDiagram:  # fmt: skip
    """A scan that goes on from its checkpoint, if there is one and --fresh was not given.

    Raises:
        StudyError: if the checkpoint belongs to other settings.
    """
    if arguments.fresh:
        checkpoint.unlink(missing_ok=True)
    model = problems.network(problem.inputs, problem.classes, hidden=hidden, width=width, seed=plan.seed)
    model = model.to(arguments.device)
    try:
        return scan(model, plan, problems.LOSSES[loss][0], problem.train, problem.test, checkpoint=checkpoint)
    except CheckpointMismatch as error:
        raise StudyError(
            f"--out holds a run with other settings: add --fresh or name another folder.\n{error}"
        ) from None
