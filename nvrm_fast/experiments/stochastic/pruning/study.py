"""Pruning of stochastic networks (SE-SNN, section 4.1, Tables 1 to 3, and appendices B.1 and B.2).

A network with stochastic hidden layers is trained with the max-entropy regularizer of equation 5, beside a
deterministic one (the baseline) from the same means and batches. Both are pruned by the same pipeline: all neurons that
never fire on the training images go in one step; then, in a loop, fine-tuning and removal of the least important
neuron by the Taylor criterion (Molchanov et al., 2017b), until the target's share of multiplications is left; then
fine-tuning. The deviation branches are dropped before; --network mlp has its inputs pruned as well.

Several --weights or --margins are the sweep of Figure B.1; --network mlp --noise-rate 0.4 is appendix B.2. Errors are
of clean test labels. No setting was chosen by the test set; held-out training images say which of a run's networks is
still good.

Written to --out: table.md, pruning.png, results.json, and runs.jsonl, from which a stopped study goes on.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.stochastic.pruning import drawing, tables
from nvrm_fast.experiments.stochastic.pruning.loop import one_run
from nvrm_fast.experiments.stochastic.pruning.options import BASELINE, PruningSettings

NAME = "stochastic-pruning"
HELP = "stochastic layers for pruning (SE-SNN, Tables 1 to 3, appendices B.1 and B.2)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=PruningSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Train and prune every network, print the tables and write the results."""
    chosen = settings.from_arguments(arguments, PruningSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    record = Record(folder, NAME, chosen, extending=("methods", "weights", "margins", "tolerance"))
    started = time.perf_counter()
    runs = run_all(data, chosen, record)
    text = tables.describe(runs, chosen)
    content = {
        "study": NAME,
        "settings": asdict(chosen),
        "versions": report.versions(chosen.device),
        "seconds_of_this_call": time.perf_counter() - started,
        "runs": runs,
    }
    report.write_json(folder / "results.json", content)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    flips = f", {100 * chosen.noise_rate:g} % of the labels flipped" if chosen.noise_rate else ""
    drawing.draw(runs, chosen, folder / "pruning.png", title=f"{chosen.network} on {data.name}{flips}")
    print(f"\n{text}\n\nwritten: {folder / 'pruning.png'}, {folder / 'table.md'}, {folder / 'results.json'}")


def run_all(data: ImageData, chosen: PruningSettings, record: Record) -> list[dict[str, Any]]:
    """All runs: dictionaries with method, weight, margin, seed and what ``one_run`` gives. The baseline, which has no
    regularizer, is made once a seed, with weight and margin 0."""
    lines = []
    for method in chosen.methods:
        each = [(0.0, 0.0)] if method == BASELINE else itertools.product(chosen.weights, chosen.margins)
        lines += [(method, weight, margin) for weight, margin in each]
    runs = []
    with progress(len(lines) * chosen.seeds, "runs") as bar:
        # By seeds first: a study that is stopped has all lines of the seeds it came to.
        for seed, (method, weight, margin) in itertools.product(range(chosen.seeds), lines):
            bar.set_description(f"{method}, seed {seed}")
            place = {"method": method, "weight": weight, "margin": margin, "seed": seed}
            result = record.run(place, partial(one_run, data, chosen, **place))
            runs.append(place | result)
            end = result["points"][-1]
            bar.write(
                f"{method} {weight:g} {margin:g}, seed {seed}: {'-'.join(map(str, end['widths']))}, "
                f"test error {end['test_error']:.1%}"
            )
            bar.update()
    return sorted(runs, key=lambda run: lines.index((run["method"], run["weight"], run["margin"])))
