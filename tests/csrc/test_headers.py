"""The headers of csrc/math compile alone, with every warning an error, and know Philox's published answers."""

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
    flags = [f"-std={standard}", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc/math"]
    subprocess.run([COMPILER, *flags, source, "-o", program], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"],
        ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"],
        ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"],
        ["-0x1.fffep-1", "0x1.fffep-1"],
    ]
