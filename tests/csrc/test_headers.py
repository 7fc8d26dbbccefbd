"""The headers of csrc/noise compile alone, with every warning an error, and know Philox's published answers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX", "c++").split()[0]


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
@pytest.mark.parametrize("standard", ["c++17", "c++20"])
def test_known_answers(tmp_path, standard):
    program = tmp_path / "known_answers"
    source = Path(__file__).with_name("known_answers.cpp")
    flags = [f"-std={standard}", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc/noise"]
    subprocess.run([COMPILER, *flags, source, "-o", program], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["5f6fb709", "0d893f64", "4f121f81", "4f730a48"],
        ["5207ddc2", "45165e59", "4d8ee751", "8c52f662"],
        ["4dfccaba", "190a87f0", "c47362ba", "b6b5242a"],
        ["-0x1.fffep-1", "0x1.fffep-1"],
    ]
