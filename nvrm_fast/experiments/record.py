"""Finished runs on disk, so that a study that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nvrm_fast.experiments import StudyError
from nvrm_fast.experiments.settings import Checked

FILE = "runs.jsonl"


class Record:
    """One line of JSON a finished run, in the order in which they ended; the first line has the study's settings.

    Args:
        folder: of --out, which exists.
        study: its command's name.
        settings: all options.
        extending: fields that may differ from those of the runs on disk, because they only say how many runs there
            are or how they are made: more seeds, another number of threads.

    Raises:
        StudyError: if the folder has runs of another study or of other settings.
    """

    def __init__(self, folder: Path, study: str, settings: Checked, extending: tuple[str, ...] = ()) -> None:
        self.path = folder / FILE
        free = {"data_dir", "device", "threads", "seeds", *extending}
        head = {"study": study} | {name: value for name, value in asdict(settings).items() if name not in free}
        head = json.loads(json.dumps(head))  # tuples as lists
        self.runs: dict[str, Any] = {}
        if self.path.exists() and self.path.stat().st_size:
            first, *lines = self.path.read_text(encoding="utf-8").split("\n")
            there = _parsed(first) or {}
            if there != head:
                names = sorted(name for name in {*there, *head} if there.get(name) != head.get(name))
                raise StudyError(
                    f"--out {folder} has runs of other settings ({', '.join(names)}): name another folder, or delete "
                    f"{FILE} there to start again"
                )
            whole = [run for run in map(_parsed, lines) if run is not None]
            self.runs = {_key(run["place"]): run["result"] for run in whole}
            # Without the line that a kill cut short, which would otherwise spoil the next one.
            lines = [json.dumps(line) for line in (head, *whole)]
            self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            self.path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    def has(self, place: dict[str, Any]) -> bool:
        """Whether the run at a place is on disk."""
        return _key(place) in self.runs

    def result(self, place: dict[str, Any]) -> Any:
        """The result of the run at a place, which must be there."""
        return self.runs[_key(place)]

    def run(self, place: dict[str, Any], work: Callable[[], Any]) -> Any:
        """The result on disk of the run at a place, or work's, which is then written. Both are plain JSON values."""
        key = _key(place)
        if key not in self.runs:
            result = json.loads(json.dumps(work(), allow_nan=False))
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"place": place, "result": result}) + "\n")
            self.runs[key] = result
        return self.runs[key]


def _key(place: dict[str, Any]) -> str:
    return json.dumps(place, sort_keys=True)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
