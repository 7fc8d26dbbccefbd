"""The CUDA kernels' launch plans and the very code of their threads, run on the CPU: see launch_emulation.cpp and
measure_emulation.cpp for the step, layer_emulation.cpp for the layers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from every_kernel import EVERY_KERNEL

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX", "c++").split()[0]
pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")


def compile_(*arguments):
    flags = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    subprocess.run([COMPILER, *flags, "-I", str(ROOT / "csrc"), *arguments], check=True)


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    """The portable kernels, compiled once for all programs."""
    kernels = tmp_path_factory.mktemp("portable") / "kernels.o"
    compile_("-O1", "-c", ROOT / "csrc/cpu/kernels_portable.cpp", "-o", kernels)
    return kernels


@pytest.fixture
def run(tmp_path, portable):
    """What a program beside this file prints, by its name and the compiler's options."""

    def printed(name, *options, arguments=()):
        program = tmp_path / name
        # -O0: with -O1 they compile longer than they run.
        compile_("-O0", *options, Path(__file__).with_name(f"{name}.cpp"), portable, "-o", program)
        result = subprocess.run([program, *arguments], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout
        return result.stdout

    return printed


# Once with each size of the argument table (CUDA 13's and older ones'): the smaller one makes more launches. It is the
# plan that differs, so that one kind of numbers will do for the other.
@pytest.mark.parametrize("argument_bytes, kinds", [(4096, 4), (32764, 4 if EVERY_KERNEL else 1)])
def test_every_element_once_and_equal_to_the_cpu_kernels(run, argument_bytes, kinds):
    told = run("launch_emulation", f"-DNVRM_ARGUMENT_BYTES={argument_bytes}", arguments=[str(kinds)])
    assert f"table: {argument_bytes} bytes of arguments" in told and "all equal" in told


def test_relative_noise_and_measures_are_equal_to_the_cpu_kernels(run):
    assert "all equal" in run("measure_emulation", "-DNVRM_ARGUMENT_BYTES=4096")


def test_layers_are_equal_to_the_cpu_kernels(run):
    assert "all equal" in run("layer_emulation")
