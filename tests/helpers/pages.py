"""The code blocks of the documentation's pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(name: str) -> dict[str, Any]:
    """Runs a page's Python blocks one after another, as one program; returns its names."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page(name)):
        exec(compile(block, name, "exec"), names)
    return names


class Change(NamedTuple):
    """One step of a page that tells how to change a file."""

    file: str
    where: str  # "before", "after" or "instead"
    anchor: str
    text: str


def changes(text: str) -> list[Change]:
    """`In FILE, before the line ANCHOR:` and a block; the file is named once and stays."""
    found, file = [], None
    pattern = (
        r"[Ii]n `([\w/.]+\.(?:py|h))`|"
        r"(before|after) the line(?: that begins with)?\s+`([^`]+)`:\n\n```\w+\n(.*?)^```$|"
        r"([Ii]nstead) of `([^`]+)`:\n\n```\w+\n(.*?)^```$"
    )
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        if match[1]:
            file = match[1]
        else:
            where, anchor, block = (match[2], match[3], match[4]) if match[2] else ("instead", match[6], match[7])
            found.append(Change(file, where, anchor, block))
    return found


def apply(change: Change, root: Path) -> None:
    """Changes the file under `root`. The anchor must be there once, at the beginning of a line."""
    path = root / change.file
    lines = path.read_text().splitlines(keepends=True)
    (at,) = (i for i, line in enumerate(lines) if line.startswith(change.anchor))
    if change.where == "instead":
        lines[at] = change.text
    else:
        lines.insert(at + (change.where == "after"), change.text)
    path.write_text("".join(lines))
