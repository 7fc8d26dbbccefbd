"""nvcc's PTX, and the launches that run it: compiled and recorded when a test first asks."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ptx import recording

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX", "c++").split()[0]


def pytest_collection_modifyitems(items):
    if shutil.which("nvcc") is None or shutil.which(COMPILER) is None:
        for item in items:
            if Path(item.path).parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="no nvcc or no C++ compiler"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ptx")


@pytest.fixture(scope="module")
def ptx(folder):
    """The text of the PTX of a source in csrc/cuda, or beside this file; compiled when it is first asked for."""

    @functools.cache
    def text(source):
        path = folder / f"{source}.ptx"
        command = ["nvcc", "-O3", "-std=c++17", "-fmad=false", "-arch=sm_90", "-ptx", "-o", str(path)]
        own = Path(__file__).with_name(f"{source}.cu")
        subprocess.run([*command, str(own if own.exists() else ROOT / f"csrc/cuda/{source}.cu")], check=True)
        return path.read_text()

    return text


@pytest.fixture(scope="module")
def recording_of(folder):
    """All cases of a program beside this file, by its name and arguments. -O0: optimized, it compiles longer than it
    runs."""

    def cases(name, *arguments):
        program, path = folder / name, folder / f"{name}.bin"
        sources = [Path(__file__).with_name(f"{name}.cpp"), ROOT / "csrc/cpu/kernels_portable.cpp"]
        flags = ["-std=c++17", "-O0", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
        subprocess.run([COMPILER, *flags, "-I", str(ROOT / "csrc"), *sources, "-o", program], check=True)
        subprocess.run([program, path, *map(str, arguments)], check=True)
        return list(recording.cases(path))

    return cases
