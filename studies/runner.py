"""Runs a study: command line, presets, refusals, processes, resume, progress and everything that is written."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

from studies import StudyError, record, seeds
from studies.data import ImageData, load, part, standardize
from studies.record import CHECKPOINTS, Cell, Record
from studies.settings import Count, DataSettings, ImageSettings, Settings

PRESETS = ("tiny", "quick", "long", "paper")
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

    settings: of the study.
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


def images(settings: Settings) -> ImageData | None:
    """The data set that the settings name, standardized; None where they name none."""
    if not isinstance(settings, DataSettings):
        return None
    data = load(settings.data, settings.data_dir)
    if isinstance(settings, ImageSettings) and settings.train_images is not None:
        data = part(data, settings.train_images)
    return standardize(data, settings.device)


@dataclass(frozen=True)
class Study:
    """A study, as the object STUDY of its module.

    Args:
        settings: its type of settings.
        presets: by the names of PRESETS the values that differ from the fields' defaults. tiny: seconds, to see that
            everything runs; quick: at most five minutes on two cores; long, which a study may have where quick is too
            small for a conclusion: hours on two cores; paper: the paper's scale, from the user's files.
        cells: all cells, in the order of the report, seeds first where a study that was stopped shall have whole seeds.
            A cell is a dictionary of plain JSON values; "seed", if it has one, counts 0, 1, ...
        run: of a ``Context`` and the cell as keywords; returns the result as plain JSON values. It does not know its
            other cells. "seed" comes as a seed that ``seeds.derive`` made of the study's name and the cell's number.
        report: of the settings and all rows, each a cell and its result in one dictionary.
        prepare: what every cell needs, once a process; the first time before anything is written, so it refuses what
            the settings ask for and is not there. By default the images.
        later_cells: cells that depend on the rows of the first ones, such as the settings that a search chose.
        extends: settings that only say which cells there are: a folder may be run again with more of them.
        packages: distributions whose versions belong to the results.
        parallel: whether cells may be run in several processes at once.
        summary: a few words on a row, for its line when it is finished.
    """

    settings: type[Any]
    presets: dict[str, dict[str, Any]]
    cells: Callable[[Any], Iterable[Cell]]
    run: Callable[..., dict[str, Any]]
    report: Callable[[Any, list[Row]], Report]
    prepare: Callable[[Any], Any] = images
    later_cells: Callable[[Any, list[Row]], Iterable[Cell]] | None = None
    extends: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    parallel: bool = True
    summary: Callable[[Row], str] = lambda row: ""

    def __post_init__(self) -> None:
        if tuple(self.presets) != tuple(name for name in PRESETS if name != "long" or name in self.presets):
            raise ValueError(f"presets are {', '.join(PRESETS)} (long may be left out), not {', '.join(self.presets)}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the runner itself is told."""

    preset: Literal["tiny", "quick", "long", "paper"] = "quick"
    """values of all other options: seconds, minutes on two cores, hours (of some studies), or the paper's"""
    out: Path = Path("runs")
    """folder for results; a study that was stopped goes on from it"""
    processes: Count | None = None
    """processes that share the cells (None: cores / threads, at most 8; one for the preset tiny and on a GPU)"""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """start anew: delete the finished cells in the folder"""
    extend: Path | None = None
    """results.json of an earlier run with the same settings, such as a committed one: its cells are taken over"""


def main(name: str, module: str, arguments: list[str]) -> None:
    """Run the study of this name and module with the arguments of a command line."""
    study = study_of(name, module)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset", default="quick")
    preset = first.parse_known_args(arguments)[0].preset
    if preset in PRESETS and preset not in study.presets:
        raise StudyError(f"{name} has no --preset {preset}: choose of {', '.join(study.presets)}")
    default = study.settings(**study.presets.get(preset, {}))  # tyro tells of a preset that there is not
    kind = dataclasses.make_dataclass(
        "Command",
        [
            ("study", study.settings, default),
            ("run", Options, Options(out=Path("runs") / name)),
        ],
    )
    command = tyro.cli(
        kind, args=arguments, prog=f"python -m studies {name}", description=importlib.import_module(module).__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip
    run(name, module, command.study, command.run)


def study_of(name: str, module: str) -> Study:
    """The study of a module.

    Raises:
        StudyError: if a package that it imports is not installed.
    """
    try:
        return importlib.import_module(module).STUDY
    except ModuleNotFoundError as missing:
        if str(missing.name).split(".")[0] in ("studies", "nvrm_fast"):
            raise
        raise StudyError(f"{name} needs the package {missing.name}: pip install -r studies/requirements.txt") from None


def run(name: str, module: str, settings: Settings, options: Options) -> None:
    """Run what is not yet on disk; then write table.md, the figures and results.json, and print the table.

    Raises:
        StudyError: for what the user can correct; before anything is run, except for a disk that gets full.
    """
    study = study_of(name, module)
    _check_device(settings.device)
    torch.set_num_threads(settings.threads)
    work = _Work(name, module, settings, options.out / CHECKPOINTS, study.prepare(settings))
    free = {"data_dir", "device", "threads", "seeds", *study.extends}
    fixed = {key: value for key, value in asdict(settings).items() if key not in free}
    rows = _earlier_rows(options.extend, name, settings, fixed)
    with record.opened(options.out, fresh=options.fresh):
        kept = Record(options.out, name, fixed)
        cells = list(study.cells(settings))
        kept.take_over(cells, rows)
        _run_cells(cells, work, study, kept, options)
        if study.later_cells is not None:
            later = list(study.later_cells(settings, [kept.row(cell) for cell in cells]))
            kept.take_over(later, rows)
            _run_cells(later, work, study, kept, options)
            cells += later
        rows = [kept.row(cell) for cell in cells]
        report = study.report(settings, rows)
        content = {
            "study": name,
            "preset": options.preset,
            "settings": asdict(settings),
            "versions": versions(settings.device, study.packages),
            **report.found,
        }
        written = [_write_text(options.out / "table.md", report.text + "\n")]
        for file, figure in report.figures.items():
            record.write(options.out / file, figure.savefig)
            written.append(options.out / file)
        written.append(_write_text(options.out / "results.json", _results(content, rows)))
    print(f"\n{report.text}\n\nwritten: {', '.join(map(str, written))}")
    if report.conclusion:
        print(f"\n{report.conclusion} The picture: {options.out / next(iter(report.figures))}")


def _earlier_rows(file: Path | None, study: str, settings: Settings, fixed: dict[str, Any]) -> list[Row]:
    """The rows of a results.json; refuses one of another study or of other settings. Settings that the study has got
    since then had their defaults."""
    if file is None:
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows, of = content["rows"], content["study"]
        there = {field.name: field.default for field in dataclasses.fields(settings)} | content["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"--extend {file} is not the results.json of a study ({error}): name one") from None
    changed = sorted(key for key, value in fixed.items() if _plain(there[key]) != _plain(value))
    if of != study or changed:
        what = f"another study ({of})" if of != study else f"other settings ({', '.join(changed)})"
        raise StudyError(f"--extend {file} is of {what}: leave it out, or give the settings that it has")
    return rows


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return json.loads(json.dumps(value))


def _results(content: dict[str, Any], rows: list[Row]) -> str:
    """JSON with a line for each row."""
    head = json.dumps(content, indent=1, allow_nan=False).removesuffix("\n}")
    return head + ',\n "rows": [\n' + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n ]\n}\n"


def _write_text(path: Path, text: str) -> Path:
    record.write(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"--device {device} cannot be used here ({reason}): try --device cpu") from None


@dataclass(frozen=True)
class _Work:
    """All that running a cell needs in a process."""

    name: str
    module: str
    settings: Any
    checkpoints: Path
    prepared: Any = None

    def run(self, cell: Cell, advance: Callable[[float], object] = lambda share: None) -> dict[str, Any]:
        """The result of a cell."""
        context = Context(self.settings, self.prepared, self.checkpoints, advance)
        seed = {"seed": seeds.derive(cell["seed"], self.name)} if "seed" in cell else {}
        return study_of(self.name, self.module).run(context, **(cell | seed))


def _run_cells(cells: list[Cell], work: _Work, study: Study, kept: Record, options: Options) -> None:
    todo = [cell for cell in cells if cell not in kept]
    processes = min(_processes(work.settings, options, study.parallel), len(todo))
    if len(todo) < len(cells):
        print(f"{len(cells) - len(todo)} of {len(cells)} runs are in {options.out} already (--fresh makes them anew)")
    if todo:
        print(f"{work.name}: {len(todo)} runs, {processes} at a time, on {work.settings.device}")
    kind = tqdm if sys.stderr.isatty() else _Lines
    with kind(total=len(cells), initial=len(cells) - len(todo), dynamic_ncols=True, leave=False,
              bar_format="{percentage:3.0f} %|{bar}| {elapsed}, about {remaining} left") as bar:  # fmt: skip
        for cell, result in _in_processes(todo, work, processes, bar) if processes > 1 else _here(todo, work, bar):
            kept.add(cell, result)
            words = ", ".join(f"{key} {value}" for key, value in cell.items())
            bar.write(f"{words}: {study.summary(kept.row(cell))}".rstrip(": "))


class _Lines(tqdm):
    """Progress where there is no terminal to draw a bar on: a line now and then."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "mininterval": 20.0, "ncols": 60, "dynamic_ncols": False})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.initial < self.n < self.total:
            print(str(self), file=sys.stderr, flush=True)

    def close(self) -> None:
        self.disable = True  # there is nothing to clear


def _processes(settings: Settings, options: Options, parallel: bool) -> int:
    if not parallel:
        return 1
    if options.processes is not None:
        return options.processes
    if options.preset == "tiny" or torch.device(settings.device).type != "cpu":
        return 1
    return max(1, min(8, (os.cpu_count() or 1) // settings.threads))


def _here(cells: list[Cell], work: _Work, bar: tqdm) -> Iterator[tuple[Cell, dict[str, Any]]]:
    begun = bar.n
    for number, cell in enumerate(cells):
        yield cell, work.run(cell, bar.update)
        bar.update(begun + number + 1 - bar.n)


def _in_processes(cells: list[Cell], work: _Work, processes: int, bar: tqdm) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each cell with its result, in the order in which they end."""
    # Spawned, not forked: torch's threads do not survive a fork. What was prepared is prepared again there.
    spawn = multiprocessing.get_context("spawn")
    told: multiprocessing.SimpleQueue[tuple[int, float]] = spawn.SimpleQueue()
    given = dataclasses.replace(work, prepared=None), told
    shares, begun = dict.fromkeys(range(len(cells)), 0.0), bar.n
    with ProcessPoolExecutor(processes, spawn, _start, given) as pool:
        futures = {pool.submit(_run_there, number, cell): number for number, cell in enumerate(cells)}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                while not told.empty():
                    number, share = told.get()
                    shares[number] = min(1.0, shares[number] + share)
                for future in done:
                    shares[futures[future]] = 1.0
                    yield cells[futures[future]], future.result()
                bar.update(begun + sum(shares.values()) - bar.n)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_work: _Work  # of a process of the pool
_told: multiprocessing.SimpleQueue[tuple[int, float]]  # to the process that shows the progress


def _start(work: _Work, told: multiprocessing.SimpleQueue[tuple[int, float]]) -> None:
    global _work, _told
    torch.set_num_threads(work.settings.threads)
    prepared = study_of(work.name, work.module).prepare(work.settings)
    _work, _told = dataclasses.replace(work, prepared=prepared), told


def _run_there(number: int, cell: Cell) -> dict[str, Any]:
    return _work.run(cell, lambda share: _told.put((number, share)))


def versions(device: str, packages: Iterable[str] = ()) -> dict[str, Any]:
    """What the numbers were made with."""
    where = torch.device(device)
    installed = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "matplotlib", *packages)}
    return {
        "nvrm_fast": importlib.import_module("nvrm_fast").__version__,
        **installed,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else device,
        "threads": torch.get_num_threads(),
    }
