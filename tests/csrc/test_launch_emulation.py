"""The CUDA step's launch plan and the very code of its threads, run on the CPU: see launch_emulation.cpp."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX", "c++").split()[0]


# Once with each size of the argument table (CUDA 13's and older ones'): the smaller one makes more launches.
@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
@pytest.mark.parametrize("argument_bytes", [4096, 32764])
def test_every_element_once_and_equal_to_the_cpu_kernels(tmp_path, argument_bytes):
    program = tmp_path / "launch_emulation"
    sources = [Path(__file__).with_name("launch_emulation.cpp"), ROOT / "csrc/cpu/kernels_portable.cpp"]
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    flags += [f"-DNVRM_ARGUMENT_BYTES={argument_bytes}", "-I", str(ROOT / "csrc")]
    subprocess.run([COMPILER, *flags, *sources, "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert f"table: {argument_bytes} bytes of arguments" in result.stdout and "all equal" in result.stdout
