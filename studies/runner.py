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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tqdm import tqdm

from studies import StudyError, record, seeds
from studies.record import CHECKPOINTS, Cell, Record
from studies.settings import Count
from studies.study import Context, Row, Study

#: In this order; a study may be without long.
PRESETS = ("tiny", "quick", "long", "paper")


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


def main(name: str, where: str, arguments: list[str]) -> None:
    """Run the study of this name and place with the arguments of a command line."""
    study = study_of(name, where)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset", default="quick")
    preset = first.parse_known_args(arguments)[0].preset
    if preset in PRESETS and preset not in study.presets:
        raise StudyError(f"{name} has no --preset {preset}: choose of {', '.join(study.presets)}")
    default = study(**study.presets.get(preset, {}))  # tyro tells of a preset that there is not
    options = Options(out=Path("runs") / name)
    kind = dataclasses.make_dataclass("Command", [("study", study, default), ("run", Options, options)])
    command = tyro.cli(
        kind, args=arguments, prog=f"python -m studies {name}", description=sys.modules[study.__module__].__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip
    run(name, command.study, command.run)


def study_of(name: str, where: str) -> type[Study]:
    """The study at a place, ``module:class``.

    Raises:
        StudyError: if a package that it imports is not installed.
    """
    module, _, kind = where.partition(":")
    try:
        return getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as missing:
        if str(missing.name).split(".")[0] in ("studies", "nvrm_fast"):
            raise
        raise StudyError(f"{name} needs the package {missing.name}: pip install -r studies/requirements.txt") from None


def run(name: str, study: Study, options: Options) -> None:
    """Run what is not yet on disk; then write table.md, the figures and results.json, and print the table.

    Raises:
        StudyError: for what the user can correct; before anything is run, except for a disk that gets full.
    """
    _check_device(study.device)
    torch.set_num_threads(study.threads)
    work = _Work(name, study, options.out / CHECKPOINTS, study.prepare())
    free = {"data_dir", "device", "threads", "seeds", *study.extends}
    fixed = {key: value for key, value in asdict(study).items() if key not in free}
    earlier = _earlier_rows(options.extend, name, study, fixed)
    rows: list[Row] = []
    with record.opened(options.out, fresh=options.fresh):
        kept = Record(options.out, name, fixed)
        for cells_of in (lambda first: study.cells(), study.later_cells):
            made = list(cells_of(list(rows)))
            kept.take_over(made, earlier)
            _run_cells(made, work, kept, options)
            rows += [kept.row(cell) for cell in made]
        report = study.report(rows)
        content = {
            "study": name,
            "preset": options.preset,
            "settings": asdict(study),
            "versions": versions(study.device, study.packages),
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


def _earlier_rows(file: Path | None, name: str, study: Study, fixed: dict[str, Any]) -> list[Row]:
    """The rows of a results.json; refuses one of another study or of other settings. Settings that the study has got
    since then had their defaults."""
    if file is None:
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows, of = content["rows"], content["study"]
        there = {field.name: field.default for field in dataclasses.fields(study)} | content["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"--extend {file} is not the results.json of a study ({error}): name one") from None
    changed = sorted(key for key, value in fixed.items() if _plain(there[key]) != _plain(value))
    if of != name or changed:
        what = f"another study ({of})" if of != name else f"other settings ({', '.join(changed)})"
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
    study: Study
    checkpoints: Path
    prepared: Any = None

    def run(self, cell: Cell, advance: Callable[[float], object] = lambda share: None) -> dict[str, Any]:
        """The result of a cell."""
        context = Context(self.study, self.prepared, self.checkpoints, advance)
        seed = {"seed": seeds.derive(cell["seed"], self.name)} if "seed" in cell else {}
        return self.study.run(context, **(cell | seed))


def _run_cells(cells: list[Cell], work: _Work, kept: Record, options: Options) -> None:
    todo = [cell for cell in cells if cell not in kept]
    processes = min(_processes(work.study, options), len(todo))
    if len(todo) < len(cells):
        print(f"{len(cells) - len(todo)} of {len(cells)} runs are in {options.out} already (--fresh makes them anew)")
    if todo:
        print(f"{work.name}: {len(todo)} runs, {processes} at a time, on {work.study.device}")
    kind = tqdm if sys.stderr.isatty() else _Lines
    with kind(total=len(cells), initial=len(cells) - len(todo), dynamic_ncols=True, leave=False,
              bar_format="{percentage:3.0f} %|{bar}| {elapsed}, about {remaining} left") as bar:  # fmt: skip
        for cell, result in _in_processes(todo, work, processes, bar) if processes > 1 else _here(todo, work, bar):
            kept.add(cell, result)
            words = ", ".join(f"{key} {value}" for key, value in cell.items())
            bar.write(f"{words}: {work.study.summary(kept.row(cell))}".rstrip(": "))


class _Lines(tqdm):
    """Progress where there is no terminal to draw a bar on: a line now and then."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "mininterval": 20.0, "ncols": 60, "dynamic_ncols": False})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.initial < self.n < self.total:
            print(str(self), file=sys.stderr, flush=True)

    def close(self) -> None:
        self.disable = True  # there is nothing to clear


def _processes(study: Study, options: Options) -> int:
    if options.processes is not None:
        return options.processes
    if options.preset == "tiny" or torch.device(study.device).type != "cpu":
        return 1
    return max(1, min(8, (os.cpu_count() or 1) // study.threads))


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
    torch.set_num_threads(work.study.threads)
    _work, _told = dataclasses.replace(work, prepared=work.study.prepare()), told


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
