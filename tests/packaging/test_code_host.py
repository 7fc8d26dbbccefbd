"""The files for a code host: what its workflows run exists here."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} == {"docs", "tests", "wheels"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_that_exist(path):
    content = yaml.safe_load(path.read_text())
    assert content["permissions"] == {"contents": "read"}
    steps = [step for job in content["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    lines = [step["run"] for step in steps if step.get("run", "").startswith("make ")]
    words = [word for line in lines for word in re.sub(r'\w+="[^"]*"|-e\b', "", line).split()[1:]]
    assert words and set(words) <= TARGETS
    scripts = [word for step in steps for word in re.findall(r"release/\w+\.\w+", step.get("run", ""))]
    assert all((ROOT / script).is_file() for script in scripts)


def test_the_tests_workflow_is_what_ci_runs():
    """Its commands, but for the environment's variables, are those of .ci/run."""
    (job,) = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"].values()
    here = [step["run"].replace("make -e", "make") for step in job["steps"] if step.get("run", "").startswith("make ")]
    there = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("make ")]
    assert here == there


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_issue_templates_have_what_the_host_asks_for(path):
    content = yaml.safe_load(path.read_text())
    assert content["name"] and content["description"]
    names = [part["id"] for part in content["body"]]
    assert len(set(names)) == len(names) and all(part["attributes"]["label"] for part in content["body"])
