"""One wheel under several versions of torch: `release/torches.py dist/*.whl 2.10.0 2.13.0`, by the wheel's Python.

For each version: an environment in build/torches (one that is there is taken, and stays), the wheel in it without its
dependencies, tests/helpers/installed.py, and with --tests the core tests, on the wheel's own files. What came out goes
into the table that ends docs/tested_with.md, a row for each Python and torch. A torch with CUDA takes 5 GB meanwhile.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from check import ROOT, run

FOLDER, TABLE = ROOT / "build/torches", ROOT / "docs/tested_with.md"


def tests(python, wheel):
    """What pytest says at the end, of the tests of `make test-fast` that are about the package with torch."""
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[test]", "pybind11")
    tree = Path(tempfile.mkdtemp())
    for name in run("git", "-C", ROOT, "ls-files", "-z").split("\0")[:-1]:
        if not name.startswith("nvrm_fast/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    zipfile.ZipFile(wheel).extractall(tree)
    others = [f"--ignore=tests/{folder}" for folder in ("studies", "integrations", "docs", "packaging")]
    words = [python, "-m", "pytest", "-q", "-m", "not slow and not gpu", *others]
    said = subprocess.run(words, cwd=tree, stdout=subprocess.PIPE, text=True).stdout
    shutil.rmtree(tree)
    print(said)
    return re.sub(r" in .*|=+ ?", "", said.splitlines()[-1])


def row(wheel, version, with_tests):
    environment = FOLDER / f"{sys.implementation.cache_tag}-torch-{version}"
    python, is_there = environment / "bin/python", environment.exists()
    if not is_there:
        run(sys.executable, "-m", "venv", environment)
        run(python, "-m", "pip", "install", "--quiet", "--no-cache-dir", f"torch=={version}")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    found = json.loads(run(python, ROOT / "tests/helpers/installed.py").splitlines()[-1])
    begin = time.monotonic()
    outcome = f"{tests(python, wheel)} in {time.monotonic() - begin:.0f} s" if with_tests else "not run"
    if not is_there:
        shutil.rmtree(environment)
    where = f"{platform.python_version()} | {found['torch']} | {platform.system()} {platform.machine()}"
    return f"| {where} | {found['serves']}, bits {found['bits'][:8]} | {outcome} | {time.strftime('%Y-%m-%d')} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--tests", action="store_true")
    arguments = parser.parse_args()
    for version in arguments.versions:
        made = row(arguments.wheel.resolve(), version, arguments.tests)
        text, rule, rows = TABLE.read_text().rpartition("|---|\n")
        others = [old for old in rows.splitlines() if old.split("|")[1:3] != made.split("|")[1:3]]
        TABLE.write_text("\n".join([text + rule.strip(), *sorted([made, *others]), ""]))
