"""Finished cells on disk, so that a study that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from studies import StudyError

FILE, LOCK, CHECKPOINTS = "runs.jsonl", ".lock", "checkpoints"
Cell = dict[str, Any]


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A block that writes to the folder of --out; an error of the system becomes a StudyError with the remedy."""
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"--out {folder} cannot be written to ({error.strerror or error}): free space there, and the same command "
            "goes on from the cells that are finished; or name another folder"
        ) from error


@contextlib.contextmanager
def opened(folder: Path, *, fresh: bool) -> Iterator[None]:
    """A block in which the folder of --out is there and no second run can write to it.

    fresh: finished cells and checkpoints in it are deleted first.

    Raises:
        StudyError: if it cannot be written to, another run has it, or what it holds is not of a study.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).exists() and any(entry.name != LOCK for entry in folder.iterdir()):
            raise StudyError(f"--out {folder} holds other files and no {FILE} of a study: name another folder")
        try:
            lock.acquire()
        except Timeout:
            raise StudyError(
                f"--out {folder} belongs to a run that goes on: wait for it, or name another folder"
            ) from None
    try:
        if fresh:
            with writing(folder):
                (folder / FILE).unlink(missing_ok=True)
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        yield
    finally:
        lock.release()


def write(path: Path, save: Callable[[Path], object]) -> None:
    """A file whole or not at all: ``save`` writes to the path it is given, which then takes the place of ``path``."""
    part = path.with_name(f".part-{path.name}")  # same ending, by which matplotlib chooses the format
    try:
        with writing(path.parent):
            save(part)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def once(path: Path, make: Callable[[], Any], device: str) -> Any:
    """What is in the file of ``torch.save``; where there is none yet, what ``make`` returns, which is then written.
    Other processes wait for it. It holds tensors, plain values and containers of them; tensors come to the device.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    try:
        if not path.exists():
            made = make()
            write(path, lambda part: torch.save(made, part))
        return torch.load(path, map_location=device, weights_only=True)
    finally:
        lock.release()


class Record:
    """One line of JSON a finished cell, in the order in which they ended; the first line has the study's settings.

    Args:
        folder: of --out, which is open.
        study: its name.
        settings: all that decides the numbers of a cell, as plain JSON values.

    Raises:
        StudyError: if the file is damaged, or has cells of another study or of other settings.
    """

    def __init__(self, folder: Path, study: str, settings: dict[str, Any]) -> None:
        self.folder, self.path = folder, folder / FILE
        self.results: dict[str, dict[str, Any]] = {}
        head = json.dumps({"study": study, "settings": settings})
        content = self.path.read_bytes() if self.path.exists() else b""
        # A kill may have cut the last line short.
        whole = content[: content.rfind(b"\n") + 1]
        if not whole and head.encode().startswith(content):
            with writing(folder):
                self.path.write_text(head + "\n", encoding="utf-8")
            return
        try:
            there, *lines = [json.loads(line) for line in whole.decode().splitlines()]
            self.results = {_key(line["cell"]): line["result"] for line in lines}
            found, wanted = there["settings"], json.loads(head)["settings"]
            changed = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            other = f"other settings ({', '.join(changed)})" if changed else ""
            other = other if there["study"] == study else f"another study ({there['study']})"
        except (ValueError, KeyError, TypeError):
            raise StudyError(
                f"{self.path} is damaged, or no study's: name another folder by --out, or delete it by --fresh"
            ) from None
        if other:
            raise StudyError(f"--out {folder} has cells of {other}: name another folder, or delete them by --fresh")
        if len(whole) < len(content):
            with writing(folder):
                os.truncate(self.path, len(whole))

    def __contains__(self, cell: Cell) -> bool:
        return _key(cell) in self.results

    def row(self, cell: Cell) -> dict[str, Any]:
        """A cell and its result in one dictionary."""
        return cell | self.results[_key(cell)]

    def take_over(self, cells: list[Cell], rows: list[dict[str, Any]]) -> None:
        """Add the results that rows, each a cell and its result, have for cells that are not finished."""
        for cell in cells:
            plain = json.loads(json.dumps(cell))
            row = next((row for row in rows if plain.items() <= row.items()), None) if cell not in self else None
            if row is not None:
                self.add(cell, {name: value for name, value in row.items() if name not in plain})

    def add(self, cell: Cell, result: dict[str, Any]) -> None:
        """Write the result of a cell; both are plain JSON values without NaN."""
        line = json.dumps({"cell": cell, "result": result}, allow_nan=False)
        with writing(self.folder), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.results[_key(cell)] = json.loads(line)["result"]


def _key(cell: Cell) -> str:
    return json.dumps(cell, sort_keys=True)
