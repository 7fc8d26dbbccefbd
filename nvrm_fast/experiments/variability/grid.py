"""A grid of trainings: every cell at every seed, shared by several processes, finished ones kept on disk."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from nvrm_fast.experiments import report, training
from nvrm_fast.experiments.data import ImageData, load, standardize
from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.settings import AT_LEAST_ONE, Settings, option
from nvrm_fast.experiments.training import Besides, Run

#: quick: minutes on two cores; paper: appendix C; tiny: seconds, to see that everything runs.
PRESETS = ("quick", "paper", "tiny")


@dataclass(frozen=True)
class GridSettings(Settings):
    """What every study of trainings needs besides the options of one training."""

    preset: str = option("quick", "named values of all other options", choices=PRESETS)
    workers: int | None = option(
        None, "processes that share the runs (default: one for each --threads cores, 8 at most; 1 on a GPU)",
        type=int, check=AT_LEAST_ONE,
    )  # fmt: skip

    @property
    def processes(self) -> int:
        """How many processes share the runs."""
        if self.workers is not None:
            return self.workers
        return max(1, min(8, (os.cpu_count() or 1) // self.threads)) if torch.device(self.device).type == "cpu" else 1


def quick(**more: Any) -> dict[str, Any]:
    """The embedded images and the small network, with what label-noise-sweep chose for them."""
    return {"seeds": 3, "epochs": 24} | more


def paper(**more: Any) -> dict[str, Any]:
    """Appendix C.1: 300 epochs, the learning rate divided by 10 after every 100; CIFAR, from the user's files."""
    return {
        "data": "cifar10", "network": "resnet34", "epochs": 300, "batch_size": 128, "lr": 0.1, "momentum": 0.9,
        "weight_decay": 1e-4, "augmentation": "crop-flip", "seeds": 10,
    } | more  # fmt: skip


def tiny(**more: Any) -> dict[str, Any]:
    """As small as can be."""
    return {"network": "mlp", "width": 8, "epochs": 1, "batch_size": 500, "seeds": 1, "workers": 1} | more


@dataclass(frozen=True)
class Cell:
    """One place of a grid: an optimizer and what differs from the study's settings there."""

    optimizer: str
    place: dict[str, Any]
    settings: Settings


def cell(chosen: Settings, optimizer: str, **changes: Any) -> Cell:
    """The cell of an optimizer at the study's settings, some of them changed."""
    own = {one.name: getattr(chosen, one.name) for one in fields(Settings)}
    return Cell(optimizer, {"optimizer": optimizer} | changes, Settings(**(own | changes)))


@dataclass(frozen=True)
class Result:
    """A cell and its runs, one a seed."""

    cell: Cell
    runs: list[Run]

    def last(self, measure: str) -> list[float]:
        """A measure of ``Run`` after the last epoch, one value a seed."""
        return [getattr(run, measure)[-1] for run in self.runs]

    def best(self, measure: str) -> list[float]:
        """The largest value over the epochs, one a seed."""
        return [max(getattr(run, measure)) for run in self.runs]


def run_grid(
    study: str, folder: Path, chosen: GridSettings, cells: Sequence[Cell], extending: tuple[str, ...] = (),
    besides: Besides | None = None,
) -> list[Result]:  # fmt: skip
    """Train every cell at the seeds 0, 1, ...; those that the folder has already are read.

    Args:
        study: its command's name.
        folder: of --out, which exists.
        chosen: the study's settings.
        cells: the grid.
        extending: settings that only say which cells there are, so that a later run may have more of them.
        besides: as ``training.train`` takes it; it can be pickled, for it goes to the processes that train.

    Raises:
        StudyError: if the folder has runs of other settings, or the data set cannot be read.
    """
    record = Record(folder, study, chosen, ("workers", *extending))
    data = standardize(load(chosen.data, chosen.data_dir), chosen.device)  # first, so that a missing file is told first
    print(f"{chosen.data}: {len(data.train_labels)} training images; {len(cells)} settings, {chosen.seeds} seeds")
    jobs = [(one, seed) for seed in range(chosen.seeds) for one in cells]
    todo = [job for job in jobs if not record.has(_place(job))]
    with report.progress(sum(one.settings.epochs for one, _ in todo), "epochs") as bar:
        for job, result in _trained(todo, chosen, data, bar, besides):
            record.run(_place(job), lambda result=result: result)
            bar.write(_line(job, result))
    return [Result(one, [Run(**record.result(_place((one, seed)))) for seed in range(chosen.seeds)]) for one in cells]


def describe(chosen: GridSettings) -> str:
    """One sentence on what was run, for the table's head."""
    return (
        f"{chosen.data}, {chosen.network}, {chosen.epochs} epochs. In "
        f"percent, on weights clean of noise; mean ± standard deviation over seeds, their number: {chosen.seeds}"
    )


def save(study: str, folder: Path, chosen: GridSettings, results: Iterable[Result], table: str, figure: str) -> None:
    """Write table.md and results.json, and print the table and where everything lies."""
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    content = {
        "study": study,
        "settings": asdict(chosen) | {"lr_drops": chosen.drops},
        "versions": report.versions(chosen.device),
        "results": [{"place": one.cell.place, "runs": [asdict(run) for run in one.runs]} for one in results],
    }
    report.write_json(folder / "results.json", content)
    print(f"\n{table}\n\nwritten: {folder / figure}, {folder / 'table.md'}, {folder / 'results.json'}")


Job = tuple[Cell, int]


def _place(job: Job) -> dict[str, Any]:
    return job[0].place | {"seed": job[1]}


def _line(job: Job, result: dict[str, Any]) -> str:
    place = ", ".join(f"{name} {value}" for name, value in _place(job).items() if name != "optimizer")
    return f"{job[0].optimizer:8s} {place}: test {result['test_accuracy'][-1]:.1%}"


def _trained(
    jobs: Sequence[Job], chosen: GridSettings, data: ImageData, bar: Any, besides: Besides | None
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with its run as plain values, in the order in which they end."""
    if min(chosen.processes, len(jobs)) <= 1:
        torch.set_num_threads(chosen.threads)
        for job in jobs:
            bar.set_description(job[0].optimizer)
            yield job, _train(data, job, besides, bar.update)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        min(chosen.processes, len(jobs)), multiprocessing.get_context("spawn"), _prepare, (chosen,)
    )
    with pool:
        futures: dict[Future, Job] = {pool.submit(_train_here, job, besides): job for job in jobs}
        try:
            for done in as_completed(futures):
                job = futures[done]
                bar.update(job[0].settings.epochs)
                yield job, done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_data: ImageData | None = None  # of a worker


def _prepare(chosen: GridSettings) -> None:
    global _data
    torch.set_num_threads(chosen.threads)
    _data = standardize(load(chosen.data, chosen.data_dir), chosen.device)


def _train_here(job: Job, besides: Besides | None) -> dict[str, Any]:
    assert _data is not None
    return _train(_data, job, besides)


def _train(data: ImageData, job: Job, besides: Besides | None, after_epoch: Any = lambda: None) -> dict[str, Any]:
    one, seed = job
    problem = training.corrupt(data, one.settings, seed)
    run = training.train(problem, one.settings, one.optimizer, seed, after_epoch=after_epoch, besides=besides)
    return asdict(run)
