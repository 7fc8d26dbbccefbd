"""One version, in every place that names it; tools of the build that are not part of the package."""

import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import nvrm_fast

ROOT = Path(__file__).parents[2]


def text(name):
    return (ROOT / name).read_text()


def test_the_version_is_one():
    version = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    assert version == nvrm_fast.__version__
    assert f"\nversion: {version}\n" in text("CITATION.cff")
    assert re.findall(r"^## (\d\S*)", text("CHANGELOG.md"), re.MULTILINE)[0] == version
    assert runpy.run_path(str(ROOT / "release/check.py"))["version"]() == version


def test_asking_setup_builds_nothing():
    """Nor does it change what is said about what was built."""
    facts = ROOT / "nvrm_fast/_build_facts.json"
    before = facts.read_text() if facts.exists() else None
    process = subprocess.run([sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert "kernels" not in process.stderr
    assert (facts.read_text() if facts.exists() else None) == before


def test_every_paper_is_cited():
    for title in re.findall(r'^    title: "?(.+?)"?$', text("CITATION.cff"), re.MULTILINE):
        words = title.split(":")[0].lower().split()
        assert any(all(word in text(page).lower() for word in words) for page in PAPERS), title


PAPERS = [f"docs/papers/{name}.md" for name in ("nvrm", "noise_injection", "direction_noise", "stochastic_networks")]


def test_ci_runs_every_gate():
    """The site, the style, the types and the release are as red as a test."""
    run = text(".ci/run")
    for target in ("dist", "lint", "docs", "test"):
        assert re.search(rf"^make .*\b{target}\b", run, re.MULTILINE), target
        assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE), target


def test_a_wheel_without_native_module_is_refused(tmp_path):
    wheel = tmp_path / "pure.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nvrm_fast/__init__.py", "")
    script = ROOT / "release/native_module.py"
    process = subprocess.run([sys.executable, script, wheel], capture_output=True, text=True)
    assert process.returncode != 0 and "has no native module" in process.stderr


def test_a_site_that_fetches_is_refused(tmp_path):
    faults = runpy.run_path(str(ROOT / "docs/site/check.py"))["faults"]
    for k in range(30):
        (tmp_path / f"{k}.html").write_text("<a href='https://elsewhere.org'>a link is no fetch</a>")
    assert faults(tmp_path) == []
    (tmp_path / "1.html").write_text('<script src="https://elsewhere.org/x.js"></script><span class="arithmatex">')
    found = faults(tmp_path)
    assert len(found) == 2 and "1.html fetches https://elsewhere.org/x.js" in found[0]
    (tmp_path / "2.html").unlink()
    assert any("only 29 pages" in fault for fault in faults(tmp_path))


@pytest.mark.parametrize("name", ["nvrm_fast/py.typed", "LICENSE", "MANIFEST.in", ".clang-format"])
def test_is_there(name):
    assert (ROOT / name).is_file()
