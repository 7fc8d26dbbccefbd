"""Tables 1 and 2 of the thesis: kinds of noise on the weights and on the signal against the size of the training set.

For every kind the strength is searched first, judged by validation images and never by the test set: the search trains
on images of a seed of its own and validates on up to 1,000 other training images. With --search smallest the strength
found at the smallest size serves all sizes, with --search each (the thesis's way) every size has its own.
Then each kind is trained at every size and seed; at one seed all kinds have the same training images, initial weights
and batches, so that they can be compared in pairs.

All networks are weight-normalized and trained by Adam, whose learning rate falls to zero over the second half.
Beyond the thesis: direction noise on the weights with local sampling, where every object and neuron has its own, and
with a plane for the mini-batch and an angle for each object (shared), beside one draw of both for the mini-batch
(batch), which is the thesis's; and if --kinds names it flipout and von Mises-Fisher.

Written to --out: table.md, kinds.png and results.json.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from studies import StudyError, models, tables
from studies.data import ImageData
from studies.direction import kinds, noise_report, training
from studies.direction.kinds import KINDS, Strength
from studies.direction.settings import LAYERS, THESIS_LAYERS, DirectionStudy, Hidden, paper, tiny
from studies.seeds import derive
from studies.settings import SOME, Count
from studies.study import Context, Row

_VALIDATION = 1_000

_QUICK_KINDS = (
    *("none", "gauss-input", "rot-n@signal", "magn-n@local", "gauss-weight"),
    *(f"{law}@{sampling}" for sampling in ("local", "shared") for law in ("proj", "rot-n")),
    "rot-n@batch",  # projected noise is the same as shared
)
_TINY_KINDS = ("none", "gauss-input", "gauss-weight", "rot-n@signal", "rot-n@local", "rot-n@flipout", "rot-n@shared")


@dataclass(frozen=True, kw_only=True)
class NoiseTable(DirectionStudy):
    """The settings of direction-tables."""

    epochs: Count = 40
    """passes over the training images"""
    samples: Count = 10
    """networks an ensemble has"""
    hidden: Hidden = LAYERS
    """hidden units of the fully connected network"""
    sizes: Annotated[tuple[Annotated[int, Field(ge=10)], ...], SOME] = (500, 1000)
    """sizes of the training set"""
    kinds: Annotated[tuple[Literal[KINDS], ...], SOME] = _QUICK_KINDS
    """kinds of noise, law@sampling"""
    search: Literal["smallest", "each"] = "smallest"
    """where strengths are searched"""
    search_seeds: Count = 1
    """seeds of the search"""

    @property
    def searched_sizes(self) -> tuple[int, ...]:
        """Where strengths are searched."""
        return self.sizes if self.search == "each" else (min(self.sizes),)

    presets = {
        "tiny": tiny(hidden=(8, 8, 8), sizes=(60, 100), kinds=_TINY_KINDS),
        "quick": {},
        "paper": paper(
            hidden=THESIS_LAYERS, sizes=(1000, 5000, 10000, 50000), kinds=KINDS, search="each", search_seeds=3
        ),
    }
    extends = ("kinds", "sizes", "search_seeds")
    report = noise_report.report

    def prepare(self) -> ImageData:
        """The images; refuses sizes that they do not have."""
        data = super().prepare()
        largest, there = max(self.sizes), len(data.train_labels)
        if largest > there:
            raise StudyError(f"--sizes {largest} is more than the {there} training images of {data.name}: choose fewer")
        return data

    def cells(self) -> Iterator[dict[str, Any]]:
        """The search, for kinds that have strengths to choose from."""
        for size, seed, kind in itertools.product(self.searched_sizes, range(self.search_seeds), self.kinds):
            if len(kinds.strengths(kind)) > 1:
                for strength in kinds.strengths(kind):
                    yield {"what": "search", "kind": kind, "size": size, "strength": list(strength), "seed": seed}

    def later_cells(self, rows: list[Row]) -> Iterator[dict[str, Any]]:
        """The tables, with the strengths that the search chose. Seeds first: a study that is stopped has all kinds and
        sizes of the seeds it came to."""
        for seed, size, kind in itertools.product(range(self.seeds), self.sizes, self.kinds):
            searched = size if self.search == "each" else min(self.sizes)
            strength = best(tables.select(rows, what="search", kind=kind, size=searched))
            yield {"what": "test", "kind": kind, "size": size, "strength": list(strength), "seed": seed}

    def run(
        self, context: Context, *, what: str, kind: str, size: int, strength: list[float], seed: int
    ) -> dict[str, float]:
        """Train one network. Accuracies are fractions: by ``training.WAYS`` on test or validation images; ``train``,
        the ensemble's on training images; ``seconds`` is what training took."""
        data, searching = context.prepared, what == "search"
        if searching:
            seed = derive(seed, "search")
        given, labels, judged, truth = split(data, size, seed, validated=searching)
        plain = models.started(models.mlp, data.shape, data.classes, self.hidden, seed=derive(seed, "weights"))
        network = kinds.with_noise(plain, kind, tuple(strength)).to(given.device)
        seconds = sum(epoch.seconds for epoch in training.train(network, given, labels, self, seed))
        result = training.accuracies(network, judged, truth, samples=self.samples, seed=seed)
        if not searching:
            few = min(1_000, size)
            result["train"] = training.accuracies(network, given[:few], labels[:few], samples=5, seed=seed)["ensemble"]
        return result | {"seconds": seconds}

    def summary(self, row: Row) -> str:
        return f"ensemble {row['ensemble']:.1%}"


def best(rows: list[Row]) -> Strength:
    """The strength with the best mean score of a kind at a size; a tie goes to the milder, which is tried first."""
    scores: dict[Strength, list[float]] = {}
    for row in rows:
        scores.setdefault(tuple(row["strength"]), []).append(row["ensemble"])
    return max(scores, key=lambda strength: statistics.fmean(scores[strength]), default=())


def split(data: ImageData, size: int, seed: int, validated: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels of one size and seed, and those that judge: the test set, or other training images.

    Smaller training sets of a seed are parts of its larger ones. Where hardly any training images are left for
    validation, a fifth of the chosen ones is held out.
    """
    order = training.shuffled(data, seed)
    used, rest = order[:size], order[size : size + _VALIDATION]
    if not validated:
        return data.train_images[used], data.train_labels[used], data.test_images, data.test_labels
    if len(rest) < size // 5:
        used, rest = used[: size - size // 5], used[size - size // 5 :]
    return data.train_images[used], data.train_labels[used], data.train_images[rest], data.train_labels[rest]
