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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from studies import figures, models, tables
from studies.data import ImageData
from studies.direction import kinds, training
from studies.direction.kinds import (
    GAUSS_INPUT,
    GAUSS_WEIGHT,
    KINDS,
    PLACES,
    PLAIN,
    SAMPLINGS,
    SIGNAL,
    SIGNAL_LAWS,
    WEIGHT_LAWS,
    Strength,
    label,
)
from studies.direction.training import LAYERS, THESIS_LAYERS, WAYS, DirectionStudy, Hidden, paper, tiny
from studies.seeds import derive, shuffled
from studies.settings import SOME, Count
from studies.study import Context, Report, Row

_VALIDATION = 1_000

_QUICK_KINDS = (
    *("none", "gauss-input", "rot-n@signal", "magn-n@local", "gauss-weight"),
    *(f"{law}@{sampling}" for sampling in ("local", "shared") for law in ("proj", "rot-n")),
    "rot-n@batch",  # projected noise is the same as shared
)
_TINY_KINDS = ("none", "gauss-input", "gauss-weight", "rot-n@signal", "rot-n@local", "rot-n@flipout", "rot-n@shared")

_SAMPLINGS = {
    "batch": "one plane and angle for the mini-batch",
    "shared": "one plane for the mini-batch",
    "flipout": "random signs",
    "local": "independent per example and neuron",
}


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

    presets = {
        "tiny": tiny(hidden=(8, 8, 8), sizes=(60, 100), kinds=_TINY_KINDS),
        "quick": {},
        "paper": paper(
            hidden=THESIS_LAYERS, sizes=(1000, 5000, 10000, 50000), kinds=KINDS, search="each", search_seeds=3
        ),
    }
    extends = ("kinds", "sizes", "search_seeds")

    def prepare(self) -> ImageData:
        return self.images_for("--sizes", max(self.sizes))

    def cells(self) -> Iterator[dict[str, Any]]:
        """The search, for kinds that have strengths to choose from."""
        sizes = self.sizes if self.search == "each" else (min(self.sizes),)
        for size, seed, kind in itertools.product(sizes, range(self.search_seeds), self.kinds):
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

    def report(self, rows: list[Row]) -> Report:
        """All tables of the study, and the figure. Rows of the search have what: "search"."""
        runs, searched = tables.select(rows, what="test"), tables.select(rows, what="search")
        seeds = f"{self.seeds} seed{'s' * (self.seeds > 1)}"
        parts = [
            f"Test accuracy of ensembles in percent, mean ± standard deviation over {seeds}.",
            "Table 1, noise on the signal:",
            _by_size(runs, [PLAIN, GAUSS_INPUT, *(f"{law}@{SIGNAL}" for law in SIGNAL_LAWS)]),
        ]
        for sampling in reversed(SAMPLINGS):
            columns = [f"{law}@{sampling}" for law in WEIGHT_LAWS]
            if any(row["kind"] in columns for row in runs):
                parts.append(f"Table 2, noise on the weights, direction noise {sampling} ({_SAMPLINGS[sampling]}):")
                columns = [PLAIN, GAUSS_INPUT, "magn-n@local", columns[0], GAUSS_WEIGHT, *columns[1:]]
                parts.append(_by_size(runs, columns))
        parts += [
            "Differences of two kinds at the same seeds, in percentage points, 95 % interval:", _differences(runs),
            "Deterministic network, one random network, ensemble; strengths as the search chose them:", _ways(runs),
        ]  # fmt: skip
        if searched:
            parts += ["The search, by strength: accuracy of ensembles on validation images:", _by_strength(searched)]
        strengths = {(row["kind"], row["size"]): row["strength"] for row in runs}
        found = [{"kind": kind, "size": size, "strength": strength} for (kind, size), strength in strengths.items()]
        return Report("\n\n".join(parts), {"kinds.png": draw(self, runs)}, {"strengths": found})

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
    order = shuffled(data.train_labels, seed, "training images")
    used, rest = order[:size], order[size : size + _VALIDATION]
    if not validated:
        return data.train_images[used], data.train_labels[used], data.test_images, data.test_labels
    if len(rest) < size // 5:
        used, rest = used[: size - size // 5], used[size - size // 5 :]
    return data.train_images[used], data.train_labels[used], data.train_images[rest], data.train_labels[rest]


def _values(runs: list[Row], kind: str, size: int, what: str = "ensemble") -> list[float]:
    return [run[what] for run in tables.select(runs, kind=kind, size=size)]


def _by_size(runs: list[Row], columns: Sequence[str]) -> str:
    there = {row["kind"] for row in runs}
    columns = [kind for kind in columns if kind in there]
    lines = [
        [f"{size}", *(tables.percent(_values(runs, kind, size)) for kind in columns)]
        for size in sorted({row["size"] for row in runs})
    ]
    return tables.markdown(["training images", *map(label, columns)], lines)


def _ways(runs: list[Row]) -> str:
    columns = {"training images": "size", "kind": "kind"}
    columns["strength"] = tables.words(lambda row: _words(row["strength"]))
    columns |= {way: tables.shares(way) for way in WAYS}
    columns |= {"ensemble, training images": tables.shares("train"), "training, s": tables.means("seconds", 1)}
    return tables.table(sorted(runs, key=lambda row: row["size"]), ["size", "kind"], columns)


def pairs(runs: list[Row]) -> list[tuple[str, str]]:
    """Which two kinds are compared seed by seed: local with shared sampling, local with the signal, and so on."""
    there = {run["kind"] for run in runs}
    wished = [(f"{law}@local", f"{law}@{other}") for other in ("batch", "shared", "flipout") for law in WEIGHT_LAWS]
    wished += [(f"{law}@{place}", f"{law}@{SIGNAL}") for place in ("local", "shared", "batch") for law in WEIGHT_LAWS]
    wished += [(f"{law}@{place}", GAUSS_INPUT) for place in (SIGNAL, "local") for law in (*SIGNAL_LAWS, *WEIGHT_LAWS)]
    wished += [(GAUSS_INPUT, PLAIN)]
    return [pair for pair in dict.fromkeys(wished) if set(pair) <= there]


def _differences(runs: list[Row]) -> str:
    sizes = sorted({run["size"] for run in runs})
    lines = [
        [*pair, *(tables.paired(*(_values(runs, kind, size) for kind in pair)) for size in sizes)]
        for pair in pairs(runs)
    ]
    return tables.markdown(["first", "minus", *(f"{size} images" for size in sizes)], lines)


def _by_strength(searched: list[Row]) -> str:
    """A line a kind and size; cells are strength: accuracy."""
    searched = [row | {"strength": tuple(row["strength"])} for row in searched]
    lines = [
        [
            f"{size}",
            kind,
            *(
                f"{_words(strength)}: {tables.percent([row['ensemble'] for row in same])}"
                for (strength,), same in tables.groups(mine, "strength").items()
            ),
        ]
        for (size, kind), mine in tables.groups(searched, "size", "kind").items()
    ]
    return tables.markdown(["training images", "kind", "mild", "middle", "strong"], lines)


def _words(strength: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in strength) or "-"


def _place(kind: str) -> str:
    return kind.split("@")[1] if "@" in kind and not kind.startswith("magn") else "reference"


def draw(settings: Any, runs: list[Row]) -> Figure:
    """Test accuracy of the ensembles by kind: a panel a size, a line a kind; points are seeds, bars one deviation."""
    sizes, names = sorted(settings.sizes), list(dict.fromkeys(run["kind"] for run in runs))
    figure, panels = figures.new_figure(
        1, len(sizes), width=2 + 4.2 * len(sizes), height=1.6 + 0.27 * len(names), sharey=True,
        title=f"{settings.data}, fully connected {'-'.join(map(str, settings.hidden))}",
    )  # fmt: skip
    for panel, size in zip(panels[0], sizes):
        for row, kind in enumerate(names):
            color, marker, _ = PLACES[_place(kind)]
            values = [100 * value for value in _values(runs, kind, size)]
            panel.plot(values, [row] * len(values), ".", color=color, alpha=0.35)
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            panel.errorbar(statistics.fmean(values), row, xerr=deviation, color=color, marker=marker, markersize=6)
        figures.name_axes(panel, f"{size} training images", "test accuracy, ensemble", percent=False)
        panel.grid(axis="x")
        panel.xaxis.set_major_formatter("{x:.1f} %")
    first = panels[0, 0]
    # What tells kinds of one name apart.
    places = ["" if _place(name) == "reference" else f", {_place(name)}" for name in names]
    first.set_yticks(range(len(names)), [label(name) + place for name, place in zip(names, places)])
    first.invert_yaxis()
    for place in dict.fromkeys(map(_place, names)):
        color, marker, words = PLACES[place]
        first.plot([], [], color=color, marker=marker, linestyle="", label=words)
    figures.legend_below(figure, first, columns=2)
    return figure
