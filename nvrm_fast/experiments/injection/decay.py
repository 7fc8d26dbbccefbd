"""Decay of noise weights and losses, and fixed against redrawn noise: Figure 1, centre and right, of Levi et al. 2022.

Three hidden layers of 1024 ReLUs on Fashion-MNIST, cross-entropy, plain SGD with eta = 0.05 and batches of 128
(appendix B), a node at the first layer. The paper trains to 100 % training accuracy on all images: many hours on two
cores; --train-images, --epochs and the number of strengths make it shorter.

Written to --out: decay.png, decay.md and decay.json; a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import math
import time

import torch

from nvrm_fast.experiments import StudyError, report
from nvrm_fast.experiments.injection import drawing, problems
from nvrm_fast.experiments.injection.phases import resumed
from nvrm_fast.probe import PhaseDiagram, Plan

HELP = "decay times of noise weights and losses (Levi et al., Figure 1, centre and right)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    add = parser.add_argument
    add("--sigmas", type=float, nargs=2, default=(0.5, 256.0), metavar=("LOW", "HIGH"), help="scan (default: 0.5 256)")
    add("--networks", type=int, default=10, help="strengths in the scan (default: %(default)s)")
    add("--shown", type=int, help="which of them the centre shows, from 1 (default: the last one in decay)")
    add("--width", type=int, default=1024, help="N_w (default: %(default)s)")
    problems.add_arguments(parser, lr=0.05, batch_size=128, epochs=100, out="runs/injection-decay")


def main(arguments: argparse.Namespace) -> None:
    """Train with redrawn and with fixed noise, fit, draw and write."""
    problems.check(arguments)
    low, high = arguments.sigmas
    if not 0 < low < high:
        raise StudyError(f"--sigmas is {low} {high}: choose two rising numbers above 0")
    if arguments.networks < 2:
        raise StudyError(f"--networks is {arguments.networks}: choose 2 or more")
    if arguments.shown is not None and not 1 <= arguments.shown <= arguments.networks:
        raise StudyError(f"--shown is {arguments.shown}: choose from 1 to {arguments.networks}")
    folder = report.output_folder(arguments.out)
    problem = problems.problem(arguments, "ce")
    sigmas = torch.logspace(math.log10(low), math.log10(high), arguments.networks, dtype=torch.float64).tolist()
    started = time.perf_counter()
    diagrams: dict[str, PhaseDiagram] = {}
    for kind in ("redrawn", "fixed"):
        plan = Plan(
            tuple(sigmas), layer="0", next_layer="2", kind=kind, lr=arguments.lr, batch_size=arguments.batch_size,
            epochs=arguments.epochs, seed=arguments.seed,
        )  # fmt: skip
        diagrams[kind] = resumed(arguments, folder / f"{kind}.pt", problem, plan, "ce", hidden=3, width=arguments.width)
    seconds = time.perf_counter() - started
    redrawn, fixed = diagrams["redrawn"], diagrams["fixed"]
    text = (
        f"{len(problem.train[0])} training images, {arguments.epochs} epochs, {seconds:.0f} s\n\n"
        f"Redrawn noise:\n\n{redrawn.describe()}\n\nFixed noise:\n\n{fixed.describe()}\n\n"
        f"Decay times in epochs, [95 % bounds]:\n\n{times_table(redrawn, fixed)}"
    )
    print(text)
    (folder / "decay.md").write_text(text + "\n", encoding="utf-8")
    content = {
        "study": "injection-decay",
        "settings": {name: value for name, value in vars(arguments).items() if name != "study"},
        "versions": report.versions(arguments.device),
        "seconds": seconds,
        "redrawn": redrawn.to_dict(),
        "fixed": fixed.to_dict(),
    }
    report.write_json(folder / "decay.json", content)
    decaying = [k for k, phase in enumerate(redrawn.phases) if phase == "decay"]
    shown = arguments.shown - 1 if arguments.shown else decaying[-1] if decaying else 0
    drawing.draw_decay(
        redrawn,
        fixed,
        redrawn.sigmas[shown],
        f"{arguments.data}, {len(problem.train[0])} training images, 3 hidden layers of {arguments.width}, CE, "
        f"η = {arguments.lr:g}, batches of {arguments.batch_size}",
        folder / "decay.png",
    )
    print(f"written: {folder / 'decay.png'}, {folder / 'decay.md'}, {folder / 'decay.json'}")


def times_table(redrawn: PhaseDiagram, fixed: PhaseDiagram) -> str:
    """tau_noise for both kinds of noise beside tau_loss, one row a strength."""
    rows = []
    for k, sigma in enumerate(redrawn.sigmas):
        one, other = redrawn.decay_times(k), fixed.decay_times(k)
        fits = (one["noise"], other["noise"], one["train loss"], one["test loss"])
        rows.append([f"{sigma:.4g}", redrawn.phases[k], fixed.phases[k], *("-" if f is None else str(f) for f in fits)])
    header = ["sigma", "phase, redrawn", "phase, fixed", "tau_noise, redrawn", "tau_noise, fixed"]
    return report.markdown_table([*header, "tau_loss, training", "tau_loss, test"], rows)
