"""Every example runs, offline, as a user runs it: evaluated on clean weights and resumed bit for bit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("with_*.py"))


def test_there_are_examples():
    assert len(EXAMPLES) == 6


def run(arguments, folder):
    root = str(EXAMPLES[0].parent.parent)
    offline = dict(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1")
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, **offline, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def scores(output):
    # Lines of two processes may run into each other.
    return [float(score) for score in re.findall(r"accuracy on clean weights (\d\.\d{3})", output)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    output = run([str(path)], tmp_path)
    if path.stem not in ("with_speech_model", "with_lora"):
        assert "resumed run equal to the uninterrupted one, bit for bit: True" in output
    # 0.97 and more on the author's machine; a chance guess gives 0.5 (spirals) and 0.05 (counting).
    assert min(scores(output)) > 0.9
    assert not list(tmp_path.iterdir()), "an example left files behind"
    if "trainer" in path.stem:
        assert "last checkpoint equal to the weights that were evaluated: True" in output


def test_two_processes(tmp_path):
    """Accelerate with DistributedDataParallel over gloo."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    example = next(path for path in EXAMPLES if "accelerate" in path.stem)
    output = run([*launch, str(example), "--epochs", "12", "--folder", str(tmp_path / "state")], tmp_path)
    assert output.count("resumed run equal to the uninterrupted one, bit for bit: True") == 2
    one, other = scores(output)
    assert one == other > 0.8
