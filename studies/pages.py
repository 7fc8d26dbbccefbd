"""Writes what the documentation says of a study from its results: ``python -m studies.pages docs/*.md``.

A page has a line ``<!-- study: results/NAME.json -->``, whose path is relative to the page, and a line
``<!-- end of study -->``. What is between them becomes the report of these results, and its figures are drawn beside
the results as NAME-figure.png. So no figure is typed by hand; a test holds pages and results together.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from studies.__main__ import STUDIES
from studies.runner import study_of
from studies.study import Report

_SECTION = re.compile(r"(<!-- study: (\S+\.json) -->\n).*?(<!-- end of study -->)", re.DOTALL)


def report_of(path: Path) -> Report:
    """The report of a results.json, made anew from its rows."""
    content = json.loads(path.read_text(encoding="utf-8"))
    study = study_of(content["study"], STUDIES[content["study"]][0])
    return study(**content["settings"]).report(content["rows"])


def written(page: Path) -> str:
    """The text of a page with every section as its results say."""

    def section(match: re.Match[str]) -> str:
        begin, results, end = match.groups()
        return f"{begin}\n{report_of(page.parent / results).text}\n\n{end}"

    return _SECTION.sub(section, page.read_text(encoding="utf-8"))


def write(page: Path) -> list[Path]:
    """Write a page's sections and draw their figures; returns the files."""
    files = []
    for _, results, _ in _SECTION.findall(page.read_text(encoding="utf-8")):
        path = page.parent / results
        for name, figure in report_of(path).figures.items():
            files.append(path.with_name(f"{path.stem}-{name}"))
            figure.savefig(files[-1])
    if files:
        page.write_text(written(page), encoding="utf-8")
        files.append(page)
    return files


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for file in write(Path(name)):
            print(f"written: {file}")
