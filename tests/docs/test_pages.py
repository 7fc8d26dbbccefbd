"""Pages that claim to be true run; links lead somewhere; pictures are what their script draws; no page is lost."""

import re
import runpy
import subprocess

import pytest
import torch
from pages import ROOT, page, run

from nvrm_fast.ops import registry

#: Their blocks are one program each, with assertions.
RUN = [
    *("docs/how_noise.md", "docs/how_step.md", "docs/how_layers.md"),
    *("docs/extend_layer.md", "docs/weight_noise.md", "docs/flat_minima.md", "docs/choosing_noise.md"),
]


def markdown():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split() if (ROOT / name).exists()]


def anchors(text):
    """The anchors that a code host and the site give to headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", RUN)
def test_runs(name, monkeypatch):
    monkeypatch.setattr(registry, "_kernels", dict(registry._kernels))  # one page adds an operator
    assert run(name)


def test_links():
    """Every relative link and picture is a file of the repository, and its anchor a heading there."""
    wrong, seen = [], 0
    for name in markdown():
        prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page(name), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"\w+:", target):
                continue
            seen += 1
            path, _, anchor = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            if not file.is_file() or anchor and anchor not in anchors(file.read_text()):
                wrong.append((name, target))
    assert not wrong and seen > 60


def test_every_page_is_in_the_navigation():
    nav = page("mkdocs.yml").split("\nnav:")[1].split("\n\n")[0]
    listed = re.findall(r"(?:- |: )(\S+\.md)$", nav, re.MULTILINE)
    pages = {name for name in markdown() if not name.startswith((".github/", "tests/", "nvrm_fast/", "csrc/"))}
    pages |= {path.relative_to(ROOT).with_suffix(".md").as_posix() for path in ROOT.glob("docs/*.ipynb")}
    assert len(listed) == len(set(listed)) and set(listed) == pages


def test_pictures_are_what_the_script_draws():
    drawn = runpy.run_path(str(ROOT / "docs/pictures/draw.py"))["pictures"]()
    assert {path.name for path in (ROOT / "docs/pictures").glob("*.svg")} == set(drawn)
    for name, svg in drawn.items():
        assert page(f"docs/pictures/{name}") == svg, f"{name}: run docs/pictures/draw.py"


def test_this_reader_of_pages(tmp_path):
    """A wrong assertion fails a page; a missing anchor is no change."""
    from pages import Change, apply

    (tmp_path / "page.md").write_text("```python\nassert 1 + 1 == 3\n```\n")
    with pytest.raises(AssertionError):
        run(str(tmp_path / "page.md"))
    (tmp_path / "file.py").write_text("a\nb\n")
    apply(Change("file.py", "after", "a", "x\n"), tmp_path)
    assert (tmp_path / "file.py").read_text() == "a\nx\nb\n"
    with pytest.raises(ValueError):
        apply(Change("file.py", "after", "c", "x\n"), tmp_path)
    assert anchors("# How we measure: on *GPUs*\n") == {"how-we-measure-on-gpus"}
    assert torch.initial_seed() == 0  # tests/conftest.py
