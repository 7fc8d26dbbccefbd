"""The CUDA kernels' launch plans and the very code of their threads, run on the CPU: see launch_emulation.cpp and
measure_emulation.cpp for the step, layer_emulation.cpp for the layers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX", "c++").split()[0]
pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")


def run(tmp_path, name, *options):
    """What a program beside this file prints, compiled with the portable kernels."""
    program = tmp_path / name
    sources = [Path(__file__).with_name(f"{name}.cpp"), ROOT / "csrc/cpu/kernels_portable.cpp"]
    flags = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", *options]
    subprocess.run([COMPILER, *flags, "-I", str(ROOT / "csrc"), *sources, "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    return result.stdout


# Once with each size of the argument table (CUDA 13's and older ones'): the smaller one makes more launches.
@pytest.mark.parametrize("argument_bytes", [4096, 32764])
def test_every_element_once_and_equal_to_the_cpu_kernels(tmp_path, argument_bytes):
    told = run(tmp_path, "launch_emulation", "-O1", f"-DNVRM_ARGUMENT_BYTES={argument_bytes}")
    assert f"table: {argument_bytes} bytes of arguments" in told and "all equal" in told


def test_relative_noise_and_measures_are_equal_to_the_cpu_kernels(tmp_path):
    assert "all equal" in run(tmp_path, "measure_emulation", "-O1", "-DNVRM_ARGUMENT_BYTES=4096")


def test_layers_are_equal_to_the_cpu_kernels(tmp_path):
    assert "all equal" in run(tmp_path, "layer_emulation", "-O0")
