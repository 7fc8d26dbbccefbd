"""How the defaults of label-noise were chosen: a full grid for SGD and NVRM-SGD, judged without test images.

The rule, fixed before the sweep was run:

1. A quarter of the training images is set aside for validation. Its labels are flipped like those of the rest, so no
   clean label is used. A setting's score is its accuracy on them after the last epoch, mean over seeds. The seeds
   are not those that label-noise reports.
2. Baseline: among SGD's settings that memorize (training accuracy on corrupted labels at least --memorizes), the one
   with the best score. It gives label-noise its network, learning rate and weight decay.
3. Variability: with exactly that network, learning rate and weight decay, the b with the best score.
4. To be fair, also the best score of SGD and of NVRM-SGD over the whole grid, whether they memorize or not.

The settings of 2 to 4 are then trained on all training images at the seeds of label-noise and judged by the test set.
Written to --out: sweep.md with all rows and sweep.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from nvrm_fast.experiments import StudyError, networks, report, settings, training
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.optimizers import NVRM_SGD, SGD
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import Settings
from nvrm_fast.experiments.training import Problem, Run

HELP = "grid over network, learning rate, weight decay and b that chose label-noise's defaults"
FIRST_SEED = 1000  # label-noise reports seeds 0, 1, ...
VALIDATION_PART = 4  # one image in so many

_GRID = {
    "network": (str, ("cnn", "mlp"), "networks"),
    "lr": (float, (0.01, 0.03, 0.1), "learning rates"),
    # The first grid ended at 0.01, where its best SGD lay; stronger decays were added, since they stop SGD memorizing.
    "weight_decay": (float, (1e-4, 1e-3, 1e-2, 2e-2, 5e-2, 0.1), "L2 penalties"),
    "variability": (float, (0.005, 0.01, 0.02, 0.05, 0.1, 0.2), "values of b; SGD is always among the rows"),
}


@dataclass(frozen=True)
class Row:
    """One setting of the grid; accuracies are fractions after the last epoch, one entry a seed."""

    optimizer: str
    network: str
    lr: float
    weight_decay: float
    variability: float  # 0 for SGD
    score: list[float]  # accuracy on the validation split, whose labels are corrupted as well
    train_accuracy: list[float]  # on the corrupted labels
    memorized: list[float | None]

    def place(self) -> tuple[str, float, float]:
        """What a row of SGD and rows of NVRM-SGD share: network, learning rate and weight decay."""
        return self.network, self.lr, self.weight_decay

    def cells(self) -> list[str]:
        """Optimizer, network, learning rate, weight decay and b as the tables show them."""
        b = "-" if self.optimizer == SGD else f"{self.variability:g}"
        return [self.optimizer, self.network, f"{self.lr:g}", f"{self.weight_decay:g}", b]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of label-noise, with lists in place of what the grid covers."""
    settings.add_arguments(parser, without=tuple(_GRID))
    for name, (kind, values, meaning) in _GRID.items():
        flag = "--" + name.replace("_", "-")
        choices = tuple(networks.NETWORKS) if name == "network" else None
        parser.add_argument(
            flag,
            dest=f"grid_{name}",
            type=kind,
            metavar="VALUE",
            nargs="+",
            default=values,
            choices=choices,
            help=f"{meaning} (default: {' '.join(map(str, values))})",
        )
    parser.add_argument(
        "--sweep-seeds", type=int, default=3, metavar="N", help="seeds a setting in the grid (default: %(default)s)"
    )
    parser.add_argument(
        "--memorizes", type=float, default=0.8, metavar="FRACTION", help="rule 2 (default: %(default)s)"
    )
    parser.add_argument(
        "--out", default="runs/label-noise-sweep", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the grid, choose by the rule, confirm on the test set, print and write all rows."""
    base = settings.from_arguments(arguments)
    if arguments.sweep_seeds < 1:
        raise StudyError(f"--sweep-seeds is {arguments.sweep_seeds}: choose 1 or more")
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(base.threads)
    data = standardize(load(base.data, base.data_dir), base.device)
    grid = [getattr(arguments, f"grid_{name}") for name in _GRID]
    rows = run_grid(data, base, places(*grid), arguments.sweep_seeds)
    content = {
        "study": "label-noise-sweep",
        "settings": asdict(base)
        | {"lr_drops": base.drops, "sweep_seeds": arguments.sweep_seeds, "memorizes": arguments.memorizes},
        "versions": report.versions(base.device),
        "rows": [asdict(row) for row in rows],
    }
    report.write_json(folder / "sweep.json", content)  # so that the rows stay if there is nothing to choose
    chosen = choose(rows, arguments.memorizes)
    confirmed = confirm(data, base, chosen)
    content["chosen"] = {why: asdict(row) for why, row in chosen.items()}
    content["confirmed"] = {why: [asdict(run) for run in runs] for why, runs in confirmed.items()}
    report.write_json(folder / "sweep.json", content)
    text = describe(rows, chosen, confirmed)
    (folder / "sweep.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\nwritten: {folder / 'sweep.md'}, {folder / 'sweep.json'}")


def places(
    network_names: Sequence[str], rates: Sequence[float], decays: Sequence[float], scales: Sequence[float]
) -> list[tuple[str, dict[str, str | float]]]:
    """Every place of the grid, as an optimizer and its settings; SGD has b = 0."""
    optimizers = [(SGD, 0.0)] + [(NVRM_SGD, scale) for scale in scales]
    return [
        (optimizer, {"network": network, "lr": lr, "weight_decay": decay, "variability": scale})
        for network, lr, decay, (optimizer, scale) in itertools.product(network_names, rates, decays, optimizers)
    ]


def validation_problem(data: ImageData, base: Settings, seed: int) -> Problem:
    """One seed's training images less a random quarter, which with its corrupted labels takes the test set's place."""
    whole = training.corrupt(data, base, seed)
    order = torch.randperm(len(whole.train_labels), generator=torch.Generator().manual_seed(seed + 2**33))
    order = order.to(whole.train_labels.device)
    held_out, kept = order[: len(order) // VALIDATION_PART], order[len(order) // VALIDATION_PART :]
    images, labels = whole.train_images, whole.train_labels
    return Problem(images[kept], labels[kept], whole.flipped[kept], images[held_out], labels[held_out], whole.classes)


def run_grid(
    data: ImageData, base: Settings, grid: Sequence[tuple[str, dict[str, str | float]]], seeds: int
) -> list[Row]:
    """Train every place of the grid at every seed; no test image is looked at.

    Raises:
        StudyError: before any training, if one of the grid's values is out of range.
    """
    applied = [(optimizer, place, replace(base, **place)) for optimizer, place in grid]
    runs: list[list[Run]] = [[] for _ in applied]
    with progress(len(applied) * seeds, "runs") as bar:
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            problem = validation_problem(data, base, seed)
            for index, (optimizer, _, setting) in enumerate(applied):
                runs[index].append(training.train(problem, setting, optimizer, seed, every_epoch=False))
                bar.update()
    return [
        Row(
            optimizer,
            **place,
            score=[run.test_accuracy[-1] for run in mine],
            train_accuracy=[run.train_accuracy[-1] for run in mine],
            memorized=[run.memorized[-1] for run in mine],
        )
        for (optimizer, place, _), mine in zip(applied, runs)
    ]


def choose(rows: Sequence[Row], memorizes: float) -> dict[str, Row]:
    """Apply rules 2 to 4; a tie goes to the earlier row.

    Raises:
        StudyError: if no setting of SGD memorizes, so that there is nothing to compare.
    """
    plain = [row for row in rows if row.optimizer == SGD]
    variable = [row for row in rows if row.optimizer == NVRM_SGD]
    memorizing = [row for row in plain if statistics.fmean(row.train_accuracy) >= memorizes]
    if not memorizing:
        raise StudyError(f"no SGD row reaches --memorizes {memorizes:g}: train for more --epochs or ask for less")
    baseline = max(memorizing, key=score_of)
    paired = [row for row in variable if row.place() == baseline.place()]
    return {
        "baseline (rule 2)": baseline,
        "variability (rule 3)": max(paired, key=score_of),
        "best SGD of the grid (rule 4)": max(plain, key=score_of),
        "best NVRM-SGD of the grid (rule 4)": max(variable, key=score_of),
    }


def score_of(row: Row) -> float:
    """Mean over seeds of the accuracy on the validation split."""
    return statistics.fmean(row.score)


def confirm(data: ImageData, base: Settings, chosen: dict[str, Row]) -> dict[str, list[Run]]:
    """Train each chosen setting on all training images at label-noise's seeds; these runs see the test set."""
    confirmed: dict[str, list[Run]] = {}
    trained: dict[tuple, list[Run]] = {}
    for why, row in chosen.items():
        setting = (row.optimizer, row.variability, *row.place())
        if setting not in trained:
            network, lr, decay = row.place()
            applied = replace(base, network=network, lr=lr, weight_decay=decay, variability=row.variability)
            trained[setting] = [
                training.train(training.corrupt(data, applied, seed), applied, row.optimizer, seed)
                for seed in range(base.seeds)
            ]
        confirmed[why] = trained[setting]
    return confirmed


def score_matrix(rows: Sequence[Row]) -> str:
    """All scores at a glance, as Markdown: one line a network, learning rate and weight decay, one column a b."""
    columns = list(dict.fromkeys((row.optimizer, row.variability) for row in rows))
    header = ["network", "lr", "weight decay", *(SGD if name == SGD else f"b = {scale:g}" for name, scale in columns)]
    lines = {row.place(): [row.network, f"{row.lr:g}", f"{row.weight_decay:g}"] for row in rows}
    scores = {(row.place(), (row.optimizer, row.variability)): score_of(row) for row in rows}
    for place, line in lines.items():
        line += [f"{100 * scores[place, column]:.1f}" for column in columns]
    return report.markdown_table(header, list(lines.values()))


def describe(rows: Sequence[Row], chosen: dict[str, Row], confirmed: dict[str, list[Run]]) -> str:
    """The chosen settings with their test accuracy, then all rows, as Markdown."""
    place_header = ["optimizer", "network", "lr", "weight decay", "b"]
    measured_header = ["training, corrupted labels", "flipped labels memorized"]
    choice = [
        [
            why,
            *row.cells(),
            report.percent(row.score),
            report.percent([run.test_accuracy[-1] for run in confirmed[why]]),
            report.percent([max(run.test_accuracy) for run in confirmed[why]]),
            report.percent([run.train_accuracy[-1] for run in confirmed[why]]),
            report.percent([run.memorized[-1] for run in confirmed[why]]),
        ]
        for why, row in chosen.items()
    ]
    everything = [[*row.cells(), *map(report.percent, (row.score, row.train_accuracy, row.memorized))] for row in rows]
    score, test = "score", ["test, last epoch", "test, best epoch"]
    return (
        "Chosen by the rule, then trained on all training images and judged by the test set:\n\n"
        + report.markdown_table(["chosen as", *place_header, score, *test, *measured_header], choice)
        + "\n\nScore by b (accuracy on the corrupted validation split, mean over seeds; in percent):\n\n"
        + score_matrix(rows)
        + "\n\nAll rows (score: accuracy on the corrupted validation split, no test image seen; all in percent):\n\n"
        + report.markdown_table([*place_header, score, *measured_header], everything)
    )
