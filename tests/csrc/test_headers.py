"""The headers of csrc/math compile alone, with every warning an error, and know Philox's published answers.

What may include what: math nothing but math, kernels (cpu, cuda) math, what Python calls (python) all of them; Python's
headers are seen there alone, and torch's nowhere.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nvrm_fast.contract.laws import LAWS

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
        ["5f6fb709", "0d893f64", "4f121f81", "4f730a48"],
        ["5207ddc2", "45165e59", "4d8ee751", "8c52f662"],
        ["4dfccaba", "190a87f0", "c47362ba", "b6b5242a"],
        ["-0x1.fffep-1", "0x1.fffep-1"],
    ]


MAY_INCLUDE = {
    "math": {"math"},
    "cpu": {"cpu", "math"},
    "cuda": {"cuda", "math"},
    "python": {"cpu", "cuda", "math", "python"},
}
FILES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "csrc").as_posix())
def test_no_include_runs_upward(path):
    text = path.read_text()
    included = {(path.parent / name).resolve() for name in re.findall(r'^#include "(.+)"$', text, re.MULTILINE)}
    assert all(file.is_file() for file in included)
    folder = path.parent.name
    assert {file.parent.name for file in included} <= MAY_INCLUDE[folder]
    assert not re.findall(r"^#include <((?:torch|ATen|c10)/.+)>$", text, re.MULTILINE)
    of_python = re.findall(r"^#include <((?:pybind11/|Python).+)>", text, re.MULTILINE)
    assert folder == "python" or not of_python


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
def test_laws_are_those_of_the_reference(tmp_path):
    """Codes, rows of constants and parameters with gradients, as the operators see them."""
    source, program = tmp_path / "laws.cpp", tmp_path / "laws"
    source.write_text(
        '#include "angle_law.h"\n#include <cstdio>\nint main() {\n'
        '  for (const auto& law : nvrm::law_sizes) std::printf("%d %d %d\\n", law.code, law.rows, law.parameters);\n}\n'
    )
    subprocess.run(
        [COMPILER, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc/math", source, "-o", program],
        check=True,
    )
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    expected = [(0, 0, 0)] + [(code, law.rows, law.parameter_count) for code, law in sorted(LAWS.items())]
    assert [tuple(map(int, line.split())) for line in lines] == expected


@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++")
@pytest.mark.parametrize("source", sorted((ROOT / "csrc/cpu").glob("*.cpp")), ids=lambda source: source.name)
def test_clang_takes_the_kernels(source):
    """Names of processor features and attributes differ between compilers."""
    flags = ["-std=c++17", "-fsyntax-only", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi", "-Werror"]
    process = subprocess.run(["clang++", *flags, source], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
