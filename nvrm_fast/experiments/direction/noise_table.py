"""Tables 1 and 2 of the thesis: kinds of noise on the weights and on the signal against the size of the training set.

For every kind the strength is searched first, judged by validation images and never by the test set: the search trains
on images of a seed of its own and validates on up to 1,000 other training images. With --search smallest the strength
found at the smallest size serves all sizes, with --search each (the thesis's way) every size has its own.
Then each kind is trained at every size and seed; at one seed all kinds have the same training images, initial weights
and batches, so that they can be compared in pairs.

All networks are weight-normalised and trained by Adam, whose learning rate falls to zero over the second half.
Beyond the thesis: direction noise on the weights with local sampling, where every object and neuron has its own, beside
the thesis's sampling (shared), and if --kinds names it flipout and von Mises-Fisher.

Written to --out: table.md, kinds.png, results.json, and runs.jsonl, from which a stopped study goes on.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from nvrm_fast.experiments import StudyError, report, settings
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.direction import drawing, fit, kinds, networks, tables
from nvrm_fast.experiments.direction.kinds import KINDS, Strength
from nvrm_fast.experiments.direction.options import LAYERS, THESIS_LAYERS, DirectionSettings, full, tiny
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, option

NAME = "direction-tables"
HELP = "kinds of direction and magnitude noise against training-set size (thesis, Tables 1 and 2)"
SEARCH_SEED = 1000  # the table's seeds are 0, 1, ...
_VALIDATION = 1_000

_QUICK_KINDS = (
    *("none", "gauss-input", "rot-n@signal", "magn-n@local", "gauss-weight"),
    *(f"{law}@{sampling}" for sampling in ("local", "shared") for law in ("proj", "rot-n")),
)
_TINY_KINDS = ("none", "gauss-input", "gauss-weight", "rot-n@signal", "rot-n@local", "rot-n@flipout", "rot-n@shared")


@dataclass(frozen=True)
class TableSettings(DirectionSettings):
    """Options of the tables."""

    epochs: int = option(40, "passes over the training images", type=int, check=AT_LEAST_ONE)
    samples: int = option(10, "networks an ensemble has", type=int, check=AT_LEAST_ONE)
    hidden: tuple[int, ...] = LAYERS
    sizes: tuple[int, ...] = option(
        (500, 1000),
        "sizes of the training set",
        type=int,
        nargs="+",
        metavar="IMAGES",
        check=(lambda sizes: len(sizes) > 0 and all(size >= 10 for size in sizes), "10 or more for each size"),
    )
    kinds: tuple[str, ...] = option(
        _QUICK_KINDS, "kinds of noise, law@sampling", nargs="+", metavar="KIND", choices=KINDS
    )
    search: str = option("smallest", "where strengths are searched", choices=("smallest", "each"))
    search_seeds: int = option(1, "seeds of the search", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": full(
            hidden=THESIS_LAYERS, sizes=(1000, 5000, 10000, 50000), kinds=KINDS, search="each", search_seeds=3
        ),
        "tiny": tiny(hidden=(8, 8, 8), sizes=(60, 100), kinds=_TINY_KINDS),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=TableSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Search strengths, train every kind, print the tables and write the results."""
    chosen = settings.from_arguments(arguments, TableSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)
    if max(chosen.sizes) > len(data.train_labels):
        raise StudyError(
            f"--sizes {max(chosen.sizes)} is more than the {len(data.train_labels)} training images of {data.name}"
        )
    record = Record(folder, NAME, chosen, extending=("kinds", "sizes", "search_seeds"))
    started = time.perf_counter()
    searched, strengths, runs = compare(data, chosen, record)
    text = tables.describe(runs, strengths, searched)
    content = {
        "study": NAME,
        "settings": asdict(chosen),
        "versions": report.versions(chosen.device),
        "seconds_of_this_call": time.perf_counter() - started,
        "strengths": [{"kind": kind, "size": size, "strength": found} for (kind, size), found in strengths.items()],
        "searched": searched,
        "runs": runs,
    }
    report.write_json(folder / "results.json", content)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    drawing.draw_kinds(
        runs, folder / "kinds.png", title=f"{data.name}, fully connected {'-'.join(map(str, chosen.hidden))}"
    )
    print(f"\n{text}\n\nwritten: {folder / 'kinds.png'}, {folder / 'table.md'}, {folder / 'results.json'}")


def compare(
    data: ImageData, chosen: TableSettings, record: Record
) -> tuple[list[dict[str, Any]], dict[tuple[str, int], Strength], list[dict[str, Any]]]:
    """All runs of the search, the strength of each (kind, size), and all runs with it. Runs are dictionaries with kind,
    size, seed, strength and what ``one_run`` gives."""
    searched_sizes = chosen.sizes if chosen.search == "each" else (min(chosen.sizes),)
    trials = [
        (kind, size, strength, SEARCH_SEED + seed)
        for size, seed, kind in itertools.product(searched_sizes, range(chosen.search_seeds), chosen.kinds)
        for strength in kinds.strengths(kind)
        if len(kinds.strengths(kind)) > 1
    ]
    # By seeds first: a study that is stopped has all kinds and sizes of the seeds it came to.
    finals = list(itertools.product(range(chosen.seeds), chosen.sizes, chosen.kinds))
    scores: dict[tuple, list[float]] = {}
    searched, runs = [], []
    with progress(len(trials) + len(finals), "runs") as bar:
        for kind, size, strength, seed in trials:
            bar.set_description(f"search {kind}, {size}")
            place = {"what": "search", "kind": kind, "size": size, "strength": strength, "seed": seed}
            result = record.run(place, partial(one_run, data, chosen, validated=True, **_where(place)))
            searched.append(_where(place) | result)
            scores.setdefault((kind, size, strength), []).append(result["ensemble"])
            bar.update()
        best = {(kind, size): _best(kind, size, scores) for kind in chosen.kinds for size in searched_sizes}
        strengths = {
            (kind, size): best[kind, size if chosen.search == "each" else searched_sizes[0]]
            for kind, size in itertools.product(chosen.kinds, chosen.sizes)
        }
        for seed, size, kind in finals:
            bar.set_description(f"{kind}, {size}, seed {seed}")
            place = {"what": "test", "kind": kind, "size": size, "strength": strengths[kind, size], "seed": seed}
            result = record.run(place, partial(one_run, data, chosen, validated=False, **_where(place)))
            runs.append(_where(place) | result)
            bar.update()
    return searched, strengths, runs


def _where(place: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in place.items() if name != "what"}


def _best(kind: str, size: int, scores: dict[tuple, list[float]]) -> Strength:
    """The strength with the best mean score; a tie goes to the milder, which is tried first."""
    return max(kinds.strengths(kind), key=lambda strength: statistics.fmean(scores.get((kind, size, strength), [0.0])))


def one_run(
    data: ImageData, chosen: TableSettings, *, kind: str, size: int, strength: Strength, seed: int, validated: bool
) -> dict[str, float]:
    """Train one network. Accuracies are fractions: by the ways of ``fit.WAYS`` on test or validation images, and
    ``train``, the ensemble's on training images; ``seconds`` is what training took."""
    images, labels, judged, truth = split(data, size, seed, validated)
    plain = networks.fully_connected(data.shape, data.classes, chosen.hidden, seed=seed)
    network = kinds.with_noise(plain, kind, tuple(strength)).to(data.train_images.device)
    started = time.perf_counter()
    fit.train(network, images, labels, epochs=chosen.epochs, batch_size=chosen.batch_size, lr=chosen.lr, seed=seed)
    seconds = time.perf_counter() - started
    result = fit.accuracies(network, judged, truth, samples=chosen.samples, seed=seed)
    if not validated:
        few = min(1_000, size)
        result["train"] = fit.accuracies(network, images[:few], labels[:few], samples=5, seed=seed)["ensemble"]
    return result | {"seconds": seconds}


def split(data: ImageData, size: int, seed: int, validated: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels of one size and seed, and those that judge: the test set, or other training images.

    Smaller training sets of a seed are parts of its larger ones. Where hardly any training images are left for
    validation, a fifth of the chosen ones is held out.
    """
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed + 2**31))
    order = order.to(data.train_labels.device)
    used, rest = order[:size], order[size : size + _VALIDATION]
    if not validated:
        return data.train_images[used], data.train_labels[used], data.test_images, data.test_labels
    if len(rest) < size // 5:
        used, rest = used[: size - size // 5], used[size - size // 5 :]
    return data.train_images[used], data.train_labels[used], data.train_images[rest], data.train_labels[rest]
