"""README: its program runs as pasted, its diff is one, and its figures are those of the pages that it links."""

import re

import pytest
import torch
from pages import ROOT, page

README = page("README.md")
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
(DIFF,) = re.findall(r"^```diff\n(.*?)^```$", README, re.M | re.S)


def test_the_program_runs_as_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(PROGRAM, {"__name__": "pasted"})
    assert float(re.fullmatch(r"accuracy (\d\.\d{3})\n", capsys.readouterr().out)[1]) > 0.97
    assert torch.load("checkpoint.pt").keys() == {"model", "optimizer"}


def test_the_diff_leads_from_plain_torch_to_the_program(tmp_path, monkeypatch):
    """Taken back line by line it leaves a program that needs no nvrm_fast."""
    monkeypatch.chdir(tmp_path)
    removed, added = ([line[1:] for line in DIFF.splitlines() if line[0] == sign] for sign in "-+")
    plain = PROGRAM.replace("from nvrm_fast import NVRMSGD\n", "")
    for old, new in zip(removed, added, strict=True):
        assert plain.count(new) == 1
        plain = plain.replace(new, old)
    assert "NVRM" not in plain and "denoised" not in plain
    exec(plain, {"__name__": "plain"})


def numbers(text):
    return set(re.findall(r"[+-]?\d+\.\d ± \d+\.\d", text))


def test_figures_with_a_deviation_stand_in_a_page_that_is_linked():
    pages = {name for name in re.findall(r"\]\((docs/[\w/]+\.md)", README)}
    known = set().union(*(numbers(page(name)) for name in pages))
    found = numbers(README)
    assert len(found) >= 6 and found <= known, found - known


def test_ratios_of_cost_are_the_reports():
    """Of NVRMAdam and NVRMSGD over one tensor, rounded as the report has them."""
    report = page("bench/results/cpu.md")
    section = README[README.index("## Cost") : README.index("## Support")]
    for name, sets in re.findall(r"^\| (NVRM[^(|]+?)(?: \([^)]*\))? \| ([^|]+\|[^|]+)\|", section, re.M):
        for instructions, ratio in zip(("avx512", "avx2"), re.findall(r"[\d.]+", sets), strict=True):
            row = re.search(rf"^\| {name}, {instructions} +\|[^|]+\|[^|]+\| +([\d.]+) ", report, re.M)
            assert row is not None and row[1] == ratio, (name, instructions)


def test_it_is_short():
    assert len(README.split()) <= 1200


@pytest.mark.parametrize("name", ["docs/install.md", "docs/optimizers.md", "docs/works_with.md", "docs/cost.md"])
def test_what_moved_is_linked(name):
    assert f"]({name})" in README and (ROOT / name).exists()
