"""Pages of the documentation say what the committed results say."""

import json
import re
from pathlib import Path

import pytest

from studies import pages
from studies.variability import label_noise, training

ROOT = Path(__file__).parents[2]
#: Pages with a section of a study's results.
WRITTEN = [page for page in sorted(ROOT.glob("docs/**/*.md")) if "<!-- study: " in page.read_text()]


#: Pages that speak of studies; those that say that something in them is still to be measured anew are left out.
SPEAKING = [
    page
    for page in [*WRITTEN, *(ROOT / "docs/papers").glob("*.md"), ROOT / "README.md"]
    if "being measured anew" not in page.read_text()
]
#: What a study measured, in running text: with a deviation or an interval, in percent or points, with a decimal.
CLAIM = re.compile(
    r"[+-]?\d+\.\d+ ± \d+\.\d+|[+-]\d+\.\d+ \[[+-]\d+\.\d+, [+-]\d+\.\d+\]|(?<![\d.,±])[+-]?\d+\.\d+(?= (?:%|points))"
)
#: Not of a study: the coverage of intervals that tests measure, and what papers report.
OTHER = {"docs/neural_variability.md": {"95.2", "94.7"}, "docs/stochastic_pruning.md": {"11.18"}}
PAPER = re.compile(r"^\*(?:Thesis|Paper):\*.*?(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


def claims(page):
    """The figures in a page's own words, each with whitespace as one space."""
    text = pages._SECTION.sub("", page.read_text())
    text = PAPER.sub("", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return set(CLAIM.findall(" ".join(text.split())))


def generated(page):
    """What the results say that a page shows, or a page that it links to; of a linked page that is still to be measured
    anew, all that it says."""
    linked = {(page.parent / name).resolve() for name in re.findall(r"\]\(([\w./]+\.md)", page.read_text())}
    found = [section[0] for one in {page, *linked} for section in pages._SECTION.finditer(one.read_text())]
    found += [text for text in (one.read_text() for one in linked) if "being measured anew" in text]
    return " ".join(" ".join(text.split()) for text in found)


def test_there_are_such_pages():
    assert ROOT / "docs/label_noise.md" in WRITTEN


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_page_and_results_hold_together(page):
    text = page.read_text()
    assert pages.written(page) == text, f"run: python -m studies.pages {page.relative_to(ROOT)}"
    assert text.count("<!-- study: ") == text.count("<!-- end of study -->") == len(pages._SECTION.findall(text))
    for results in re.findall(r"<!-- study: (\S+) -->", text):
        path = page.parent / results
        assert all(path.with_name(f"{path.stem}-{name}").exists() for name in pages.report_of(path).figures)


@pytest.mark.parametrize("page", SPEAKING, ids=lambda page: page.name)
def test_figures_in_running_text_are_those_of_results(page):
    known = generated(page)
    name = str(page.relative_to(ROOT))
    unknown = {
        claim
        for claim in claims(page) - OTHER.get(name, set())
        if not re.search(
            rf"(?<![\d.]){re.escape(claim)}(?![\d])", known.replace("+", "") if claim[0].isdigit() else known
        )
    }
    assert not unknown, f"{name}: typed by hand, and in no result that the page shows or links to: {sorted(unknown)}"


def test_the_pair_of_equal_tuning_budgets_is_the_sweeps():
    """The pages that show it have what the sweep's table has, with b = 0.05 for the best of all NVRM-SGD."""
    lines = (ROOT / "docs/label_noise_sweep.md").read_text().splitlines()
    for optimizer, b in (("SGD", "-"), ("NVRM-SGD", "0.05")):
        (line,) = [line for line in lines if line.startswith(f"| best {optimizer} of the grid (rule 4)")]
        cells = [cell.strip() for cell in line.split("|")]
        assert cells[6] == b
        for name in ("README.md", "docs/label_noise.md", "docs/nvrm_studies.md", "docs/papers/nvrm.md"):
            assert cells[8] in (ROOT / name).read_text(), name


def test_a_page_is_written_from_results(tmp_path):
    settings = label_noise.LabelNoise(**training.tiny())
    run = {
        "test_accuracy": [0.5], "train_accuracy": [0.25], "memorized": [0.125], "train_loss": [1.0], "seconds": [2.0],
        "state_bytes_a_parameter": 4.0,
    }  # fmt: skip
    content = {
        "study": "label-noise",
        "settings": json.loads(json.dumps(vars(settings))),
        "rows": [cell | run for cell in settings.cells()],
    }
    (tmp_path / "some.json").write_text(json.dumps(content))
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- study: some.json -->\nold\n<!-- end of study -->\n\nAfter.\n")
    assert pages.write(page) == [tmp_path / "some-curves.png", page]
    text = page.read_text()
    assert (
        text.startswith("Before.\n\n<!-- study")
        and text.endswith("<!-- end of study -->\n\nAfter.\n")
        and "old" not in text
    )
    assert text.count("| 50.0 ± 0.0 ") == 4 and text.count("| 12.5 ± 0.0 ") == 2
    assert (tmp_path / "some-curves.png").read_bytes().startswith(b"\x89PNG")
    assert pages.written(page) == text  # a second time it stays
    (tmp_path / "other.md").write_text("No study.\n")
    assert pages.write(tmp_path / "other.md") == []
