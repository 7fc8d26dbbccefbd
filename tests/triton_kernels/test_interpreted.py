"""Runs the interpreted_*.py files of this folder in processes of their own.

Triton decides between compiler and interpreter when kernels are defined, for the whole process, so the rest of the
tests must not share one with these.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
installed = importlib.util.find_spec("triton") is not None


@pytest.mark.skipif(not installed, reason="Triton is not installed: pip install triton")
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("interpreted_*.py")))
def test_in_the_interpreter(file):
    import nvrm_fast

    package = str(Path(nvrm_fast.__file__).parents[1])
    path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-rs", str(HERE / file)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    print(done.stdout.splitlines()[-1])
