"""Coverage of Python and of the native kernels in one run of the tests: `make coverage`.

The kernels are compiled once more, with gcc's counters, in a copy of the repository (build/coverage/tree), so that
neither the working tree nor its native module changes. What is given on the command line goes to pytest:

    make coverage COVERAGE_ARGS="tests/optim -n 2"      # a part; without arguments everything, in two processes

CUDA and Triton kernels are not seen: they do not run, or run in an interpreter that traces nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "build/coverage"
TREE = REPORT / "tree"


def run(*command: object, **environment: str) -> int:
    return subprocess.run(
        [str(word) for word in command], cwd=TREE, env={**os.environ, "PYTHONPATH": str(TREE), **environment}
    ).returncode


def copy() -> None:
    """The files that git knows; objects of an earlier run stay, and what has not changed is not compiled again."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, TREE / name)
    # Tests ask git which files there are.
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=TREE, check=True)
    for counts in TREE.rglob("*.gcda"):
        counts.unlink()


def main() -> None:
    copy()
    flags = {"CFLAGS": "--coverage", "CXXFLAGS": "--coverage", "LDFLAGS": "--coverage", "NVRM_FAST_BUILD": "cpu"}
    if run(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", **flags) != 0:
        sys.exit("the build with counters failed")
    arguments = sys.argv[1:] or ["-n", "2", "--dist", "loadfile"]
    python = REPORT / "python.json"
    failed = run(
        sys.executable, "-m", "pytest", "-q", "--cov=nvrm_fast", "--cov-branch", f"--cov-report=json:{python}",
        f"--cov-report=html:{REPORT / 'python'}", *arguments,
    )  # fmt: skip
    native = REPORT / "native.json"
    (REPORT / "native").mkdir(exist_ok=True)
    run(
        sys.executable, "-m", "gcovr", "--root", TREE, "--filter", "csrc/", "--exclude-throw-branches",
        "--json-summary", native, "--html-details", REPORT / "native/index.html", "--gcov-ignore-errors=all",
    )  # fmt: skip
    totals = json.loads(python.read_text())["totals"]
    lines = json.loads(native.read_text())
    print(f"Python: {totals['percent_covered']:.1f} % of {totals['num_statements']} statements and their branches")
    print(f"C++: {lines['line_percent']:.1f} % of {lines['line_total']} lines")
    print(f"Line by line: {REPORT / 'python/index.html'}, {REPORT / 'native/index.html'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
