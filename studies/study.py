"""What a study is: settings from the command line, cells that are run, and a report of their rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from studies import record
from studies.data import ImageData, load, part, standardize
from studies.record import Cell
from studies.settings import Count, DataName, Settings

Row = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What a study makes of its rows. text: Markdown. figures: by file name. found: JSON values that it derived, such
    as the settings that a search chose. conclusion: a sentence, printed at the end with the first
    figure's path."""

    text: str
    figures: dict[str, Figure] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    conclusion: str = ""


@dataclass(frozen=True)
class Context:
    """What a cell is run with.

    settings: the study.
    prepared: what ``Study.prepare`` returned in this process.
    checkpoints: a folder for what a cell keeps on disk while it is not finished, or for cells to share. It is made on
        demand (``mkdir``), and another process may use it at the same time.
    advance: tells the progress bar how large a share of the cell has been done since it was told last.
    """

    settings: Any
    prepared: Any
    checkpoints: Path
    advance: Callable[[float], object] = lambda share: None

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made once for all cells that ask for this name; see ``record.once``."""
        return record.once(self.checkpoints / f"{name}.pt", make, self.settings.device)


@dataclass(frozen=True, kw_only=True)
class Study(Settings):
    """A study: its fields are the options of its command, what stands below them is the same for all runs.

    presets: by name the values that differ from the fields' defaults. tiny: seconds, to see that everything runs;
        quick: at most five minutes on two cores; long, which a study may have where quick is too small for a
        conclusion: hours on two cores; paper: the paper's scale, from the user's files.
    axes: what tells cells apart, by its name in a cell: the attribute that has its values, or the values. A value that
        is a dictionary tells several names at once.
    extends: fields that only say which cells there are: a folder may be run again with more of them.
    packages: distributions whose versions belong to the results.
    """

    device: str = "cpu"
    """torch device, such as cpu or cuda"""
    threads: Count = 1
    """CPU threads of each process; the last digits of all numbers depend on it"""

    presets = {"tiny": {}, "quick": {}, "paper": {}}
    axes = {}
    extends = ()
    packages = ()

    def prepare(self) -> Any:
        """What every cell needs, once a process; the first time before anything is written, so it refuses what the
        options ask for and is not there."""

    def cells(self) -> Iterable[Cell]:
        """All cells, in the order of the report; unless a study says otherwise every combination of its axes at its
        ``seed``, or at each of its ``seeds``, first the first, so that a study that was stopped has whole seeds. A cell
        is a dictionary of plain JSON values; "seed", if it has one, counts 0, 1, ..."""
        seeds = range(self.seeds) if hasattr(self, "seeds") else [self.seed]
        values = [getattr(self, of) if isinstance(of, str) else of for of in self.axes.values()]
        for seed, *place in itertools.product(seeds, *values):
            cell: Cell = {}
            for name, value in zip(self.axes, place):
                cell |= value if isinstance(value, dict) else {name: value}
            yield cell | {"seed": seed}

    def later_cells(self, rows: list[Row]) -> Iterable[Cell]:
        """Cells that depend on the rows of the first ones, such as the settings that a search chose."""
        return ()

    def run(self, context: Context, **cell: Any) -> dict[str, Any]:
        """The result of a cell as plain JSON values. It does not know the other cells. "seed" comes as a seed that
        ``seeds.derive`` made of the study's name and the cell's number."""
        raise NotImplementedError

    def report(self, rows: list[Row]) -> Report:
        """What comes of all rows, each a cell and its result in one dictionary, and of nothing else."""
        raise NotImplementedError

    def summary(self, row: Row) -> str:
        """A few words on a row, for its line when it is finished."""
        return ""


@dataclass(frozen=True, kw_only=True)
class DataStudy(Study):
    """A study on a data set of images, which every cell gets standardized."""

    data: DataName = "mnist-5000"
    """data set"""
    data_dir: str | None = None
    """folder with the data set's official files"""

    def prepare(self) -> Any:
        return standardize(load(self.data, self.data_dir), self.device)


@dataclass(frozen=True, kw_only=True)
class ImageStudy(DataStudy):
    """A study that repeats trainings on a data set of images."""

    seeds: Count = 3
    """how many seeds, each with its own initialization, batches and noise"""
    train_images: Count | None = None
    """so many training images, a fixed random choice (None: all)"""

    def loaded(self) -> ImageData:
        """The chosen images as loaded."""
        data = load(self.data, self.data_dir)
        return data if self.train_images is None else part(data, self.train_images)

    def prepare(self) -> Any:
        return standardize(self.loaded(), self.device)
