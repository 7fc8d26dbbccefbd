"""How the defaults of label-noise were chosen: a full grid for SGD and NVRM-SGD, judged without test images.

The rule, fixed before the sweep was run:

1. A quarter of the training images is set aside for validation. Its labels are flipped like those of the rest, so no
   clean label is used. A setting's score is its accuracy on them after the last epoch, mean over seeds. The seeds
   are not those of 5.
2. Baseline: among SGD's settings that memorize (training accuracy on corrupted labels at least --memorizes), the one
   with the best score. It gives label-noise its network, learning rate and weight decay.
3. Variability: with exactly that network, learning rate and weight decay, the b with the best score.
4. To be fair, also the best score of SGD and of NVRM-SGD over the whole grid, whether they memorize or not; of NVRM-SGD
   once more with the b of 3 alone, since the grid has as many settings of that as of SGD.
5. The settings of 2 to 4 are trained on all training images and judged by the test set.

The preset paper is the grid that chose label-noise's defaults (many hours on two cores); quick is a part of it.

Written to --out: table.md with all settings and results.json.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from studies import StudyError, models, tables
from studies.optimizers import NVRM_SGD, SGD
from studies.settings import SOME, Count, NotNegative, Positive
from studies.study import Context, Report, Row
from studies.variability import training
from studies.variability.training import FlippedStudy, end, last

PLACE = ("network", "lr", "weight_decay")
_PLACE = {"network": "network", "lr": "lr", "weight decay": tables.first("{weight_decay:g}")}
SETTING = ("optimizer", *PLACE, "variability")


@dataclass(frozen=True, kw_only=True)
class Sweep(FlippedStudy):
    """The settings of label-noise-sweep."""

    seeds: Count = 5
    """how many seeds the settings that were chosen are trained with"""
    sweep_seeds: Count = 3
    """how many seeds each setting of the grid is trained with"""
    network: Annotated[tuple[models.NetworkName, ...], SOME] = ("cnn", "mlp")
    """networks, one or more"""
    lr: Annotated[tuple[Positive, ...], SOME] = (0.01, 0.03, 0.1)
    """learning rates at the start, one or more"""
    # The first grid ended at 0.01, where its best SGD lay; stronger decays were added, since they stop SGD memorizing.
    weight_decay: Annotated[tuple[NotNegative, ...], SOME] = (1e-4, 1e-3, 1e-2, 2e-2, 5e-2, 0.1)
    """L2 penalties, one or more"""
    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    """b, one or more; SGD is always in the grid"""
    memorizes: float = 0.8
    """training accuracy that rule 2 asks for, a fraction"""

    presets = {
        "tiny": training.tiny(
            network=("mlp",), lr=(0.1,), weight_decay=(0.0, 1e-2), variability=(0.02,), sweep_seeds=1, memorizes=0.0
        ),
        "quick": {
            "network": ("cnn",), "lr": (0.03,), "weight_decay": (1e-2, 5e-2), "variability": (0.02, 0.05),
            "sweep_seeds": 2, "seeds": 1,
        },
        "paper": {},
    }  # fmt: skip
    extends = ("sweep_seeds", "network", "lr", "weight_decay", "variability", "memorizes")

    def cells(self) -> Iterator[dict[str, Any]]:
        """The grid: every setting at every seed, judged by the validation split."""
        optimizers = [(SGD, 0.0)] + [(NVRM_SGD, b) for b in self.variability]
        for seed in range(self.sweep_seeds):
            for *place, (optimizer, b) in itertools.product(self.network, self.lr, self.weight_decay, optimizers):
                setting = dict(zip(SETTING, (optimizer, *place, b)))
                yield {"judged_by": "validation"} | setting | {"seed": seed}

    def later_cells(self, rows: list[Row]) -> Iterator[dict[str, Any]]:
        """What the rule chose, each setting once, judged by the test set."""
        chosen = tables.groups([runs[0] for runs in choose(rows, self.memorizes).values()], *SETTING)
        for setting, seed in itertools.product(chosen, range(self.seeds)):
            yield {"judged_by": "test"} | dict(zip(SETTING, setting)) | {"seed": seed}

    def run(self, context: Context, *, judged_by: str, optimizer: str, seed: int, **place: Any) -> dict[str, Any]:
        """One training; of the grid's, only the last epoch is judged."""
        problem, seed = training.judged(context.prepared, self.noise_kind, self.noise_rate, seed, judged_by)
        return training.train(
            problem, self.at(**place), optimizer, seed, every_epoch=judged_by == "test",
            advance=context.advance,
        )  # fmt: skip

    def report(self, rows: list[Row]) -> Report:
        """The settings that were chosen with their test accuracy, the scores at a glance, then all of the grid."""
        chosen = choose(rows, self.memorizes)
        grid, confirmed = (tables.select(rows, judged_by=by) for by in ("validation", "test"))
        setting = {"optimizer": "optimizer"} | _PLACE | {"b": "variability"}
        measured = {
            "training, corrupted labels": tables.shares(end("train_accuracy")),
            "flipped labels memorized": tables.shares(end("memorized")),
        }
        # The runs of a choice at the test set, one line for each reason.
        lines = [
            row | {"why": why, "score": last(runs, "test_accuracy")}
            for why, runs in chosen.items()
            for row in tables.select(confirmed, **{name: runs[0][name] for name in SETTING})
        ]
        columns = {
            "chosen as": "why",
            **setting,
            "score": lambda runs: tables.percent(runs[0]["score"]),
            "test, last epoch": tables.shares(end("test_accuracy")),
            "test, best epoch": tables.shares(lambda row: max(row["test_accuracy"])),
            **measured,
        }
        choice = tables.table(lines, ["why"], columns)
        scores = {"score": tables.shares(end("test_accuracy"))}
        text = (
            f"Chosen by the rule, then trained on all training images and judged by the test set:\n\n{choice}\n\n"
            f"Score by b (accuracy on the corrupted validation split, mean over seeds; in percent):\n\n"
            f"{matrix(grid)}\n\n"
            "All settings (score: accuracy on the corrupted validation split, no test image seen; all in percent):\n\n"
            + tables.table(grid, SETTING, setting | scores | measured)
        )
        found = {"chosen": {why: {name: runs[0][name] for name in SETTING} for why, runs in chosen.items()}}
        return Report(text, found=found)


def choose(rows: Sequence[Row], memorizes: float) -> dict[str, list[Row]]:
    """The runs of what rules 2 to 4 choose, by why; a tie goes to the earlier setting.

    Raises:
        StudyError: if no setting of SGD memorizes, so that there is nothing to compare.
    """
    grid = tables.groups(tables.select(rows, judged_by="validation"), *SETTING).values()
    plain, variable = ([runs for runs in grid if runs[0]["optimizer"] == name] for name in (SGD, NVRM_SGD))
    memorizing = [runs for runs in plain if statistics.fmean(last(runs, "train_accuracy")) >= memorizes]
    if not memorizing:
        raise StudyError(
            f"no setting of SGD reaches --memorizes {memorizes:g}: train for more --epochs in another --out, or ask "
            "for less"
        )
    baseline = max(memorizing, key=score)
    at_baseline = [runs for runs in variable if all(runs[0][name] == baseline[0][name] for name in PLACE)]
    chosen = max(at_baseline, key=score)
    return {
        "baseline (rule 2)": baseline,
        "variability (rule 3)": chosen,
        "best SGD of the grid (rule 4)": max(plain, key=score),
        "best NVRM-SGD of the grid (rule 4)": max(variable, key=score),
        "best NVRM-SGD with that b (rule 4)": max(
            (runs for runs in variable if runs[0]["variability"] == chosen[0]["variability"]), key=score
        ),
    }


def score(runs: Sequence[Row]) -> float:
    """Mean over seeds of the accuracy on the validation split."""
    return statistics.fmean(last(runs, "test_accuracy"))


def matrix(grid: Sequence[Row]) -> str:
    """All scores: a line for each network, learning rate and weight decay, a column for each b."""

    def at(optimizer: str, b: float) -> Any:
        return lambda runs: f"{100 * score(tables.select(runs, optimizer=optimizer, variability=b)):.1f}"

    methods = dict.fromkeys((row["optimizer"], row["variability"]) for row in grid)
    names = {SGD if optimizer == SGD else f"b = {b:g}": at(optimizer, b) for optimizer, b in methods}
    return tables.table(grid, PLACE, _PLACE | names)
