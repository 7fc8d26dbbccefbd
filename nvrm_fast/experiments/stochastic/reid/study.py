"""Re-identification with wrong labels (SE-SNN, section 4.3, Table 4, Figures 3b and 3c, appendix A).

A ResNet is trained to tell identities apart whose labels are partly wrong: a share of the training pictures gets the
identity of the picture that looks most like it to a network trained on right labels. In a second stage its last unit
becomes stochastic (or, for the baseline, gets a parallel layer of as many weights) and is trained with the classifier
alone. Then pictures of other identities are searched for: mean average precision and cumulative matching
characteristics by Market-1501's protocol, all in the mode "mean". Every method uses its loss in both stages.

--market reads Market-1501 in its official layout; without it a small retrieval task in the same layout is made of a
data set at hand and written to --out. At one seed all methods see the same labels and batches.

Written to --out: table.md, scores.png, sigma.png (Figure 3b), pictures.png (Figure 3c) and results.json; runs.jsonl and
networks/ (those of the first stage), from which a stopped study goes on.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from nvrm_fast.experiments import StudyError, data, report, settings
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.settings import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Checked, option
from nvrm_fast.experiments.stochastic.reid import drawing, market1501, resnet, tables, views
from nvrm_fast.experiments.stochastic.reid.methods import METHODS
from nvrm_fast.experiments.stochastic.reid.runs import Runs

NAME = "stochastic-reid"
HELP = "re-identification with wrong labels by stochastic networks (SE-SNN, Table 4)"
_SHARE = (lambda shares: len(shares) > 0 and all(0 <= p < 1 for p in shares), "from 0 up to, but not including, 1")


@dataclass(frozen=True)
class ReidSettings(Checked):
    """Options of the study."""

    preset: str = option("quick", "named values of all other options", choices=("quick", "paper", "tiny"))
    market: str | None = option(None, "folder of Market-1501 in its official layout", metavar="FOLDER")
    data: str = option(
        "mnist-5000", "without --market: images that identities are made of", choices=tuple(data.LOADERS)
    )
    data_dir: str | None = option(None, "folder with that data set's official files", metavar="FOLDER")
    identities: int = option(
        160, "without --market: to train on", type=int, check=(lambda value: value >= 2, "2 or more")
    )
    test_identities: int = option(48, "without --market: to search for", type=int, check=AT_LEAST_ONE)
    network: str = option("small", "network", choices=resnet.NETWORKS)
    weights: str | None = option(
        "none", "what it starts from: none (random), download (ImageNet's, 98 MB), or a file", metavar="WHAT"
    )
    size: tuple[int, ...] = option(
        (views.SIZE, views.SIZE),
        "height and width of a picture",
        type=int,
        nargs=2,
        metavar="PIXELS",
        check=(lambda size: min(size) >= 16, "16 or more for both"),
    )
    strengths: tuple[float, ...] = option(
        (0.0, 0.1, 0.2, 0.5), "shares of wrong labels", type=float, nargs="+", metavar="P", check=_SHARE
    )
    methods: tuple[str, ...] = option(
        tuple(METHODS), "lines of the table", nargs="+", metavar="NAME", choices=tuple(METHODS)
    )
    seeds: int = option(3, "how many seeds: wrong labels, initialisation and batches", type=int, check=AT_LEAST_ONE)
    iterations: int = option(400, "steps of the first stage", type=int, check=AT_LEAST_ONE)
    last_iterations: int = option(200, "steps of the second stage", type=int, check=AT_LEAST_ONE)
    batch_size: int = option(32, "pictures a step", type=int, check=(lambda value: value >= 2, "2 or more"))
    lr: float = option(1e-3, "Adam's learning rate in the first stage", type=float, check=POSITIVE)
    last_lr: float = option(5e-3, "Adam's learning rate in the second stage", type=float, check=POSITIVE)
    weight: float = option(1e-2, "of the regularizer", type=float, check=NOT_NEGATIVE)
    margin: float = option(
        4.0, "b of equation 6", type=float, check=(lambda value: abs(value) < float("inf"), "a finite number")
    )
    device: str = option("cpu", "torch device, such as cpu or cuda")
    threads: int = option(1, "CPU threads; the last digits of all numbers depend on it", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {
            "network": "resnet50", "weights": None, "size": (256, 128), "iterations": 60_000,
            "last_iterations": 20_000, "lr": 3.5e-4, "last_lr": 5e-4, "seeds": 5,
        },
        "tiny": {
            "identities": 4, "test_identities": 3, "strengths": (0.0, 0.5), "seeds": 1, "iterations": 3,
            "last_iterations": 2, "batch_size": 8,
        },
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=ReidSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Make or read the task, train every method, print the table and write the results."""
    chosen = settings.from_arguments(arguments, ReidSettings)
    if chosen.preset == "paper" and chosen.market is None:
        raise StudyError("--preset paper is of Market-1501: name the folder of your copy by --market")
    if chosen.weights is None:
        raise StudyError(
            "--preset paper starts from ImageNet's weights: give --weights FILE (torchvision's of ResNet-50), "
            "--weights download, or --weights none to start at random all the same"
        )
    if chosen.weights != "none" and chosen.network != "resnet50":
        raise StudyError(f"--weights {chosen.weights} are of ResNet-50: add --network resnet50, or leave them out")
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    record = Record(folder, NAME, chosen, extending=("strengths", "methods"))
    where = chosen.market
    if where is None:
        where = folder / f"views-{chosen.data}-{chosen.identities}-{chosen.test_identities}"
        if not (where / views.POOR_LIST).exists():  # written last
            views.write(where, data.load(chosen.data, chosen.data_dir), chosen.identities, chosen.test_identities)
    market = market1501.read(where)
    name = f"views of {chosen.data}" if chosen.market is None else "Market-1501"
    print(
        f"{name}: {len(market.train)} pictures of {len(market.train.identities.unique())} identities to train on, "
        f"{len(market.query)} queries in a gallery of {len(market.gallery)}",
        flush=True,
    )
    started = time.perf_counter()
    rows = Runs(chosen, market, record, folder).all()
    text = tables.describe(rows)
    content = {
        "study": NAME,
        "settings": asdict(chosen),
        "versions": report.versions(chosen.device),
        "seconds_of_this_call": time.perf_counter() - started,
        "runs": rows,
    }
    report.write_json(folder / "results.json", content)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    written = drawing.draw(rows, market.train.paths, folder, title=name)
    print(f"\n{text}\n\nwritten: {', '.join(map(str, [*written, folder / 'table.md', folder / 'results.json']))}")
