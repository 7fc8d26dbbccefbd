"""Every .cu compiles for every GPU it is built for, without a warning and without a spilled register.

nvcc alone: no torch, no GPU. `pytest -s tests/csrc/test_cuda_compiles.py` (make cuda-check) prints the table.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GPUS = ("80", "90", "100")
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))
FLAGS = ["-O3", "-std=c++17", "-fmad=false", "-Werror", "all-warnings", "-Xptxas", "-v", "--threads", "2"]

STORAGE = {
    "float, float": "float32",
    "double, double": "float64",
    "nvrm::BFloat16, float": "bfloat16",
    "nvrm::Float16, float": "float16",
}


def readable(symbol):
    """A kernel's name, and its instance where it is the step."""
    match = re.search(r"step_kernel<nvrm::(.+), (float, float|double, double|nvrm::\w+, float), (true|false)>", symbol)
    if match is None:
        return re.sub(r".*::", "", symbol.split("(nvrm")[0])
    rule, storage, master = match.groups()
    return f"{rule}, {STORAGE[storage]}{', master' if master == 'true' else ''}"


def demangled(text):
    if shutil.which("c++filt") is None:
        return text
    return subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout


def kernels_in(report):
    """(kernel, GPU, registers, bytes spilled, bytes of stack) of each kernel in ptxas's report."""
    pattern = (
        r"Compiling entry function '(.+?)' for 'sm_(\d+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    for symbol, gpu, stack, stores, loads, registers in re.findall(pattern, report, flags=re.DOTALL):
        yield readable(symbol), gpu, int(registers), int(stores) + int(loads), int(stack)


def test_a_report_is_understood():
    report = """ptxas info    : Compiling entry function 'void nvrm::step_kernel<nvrm::Sgd<true>, nvrm::BFloat16, \
float, true>(nvrm::LaunchTable)' for 'sm_90'
ptxas info    : Function properties for whatever
    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 88 registers, used 0 barriers"""
    assert list(kernels_in(report)) == [("Sgd<true>, bfloat16, master", "90", 88, 12, 8)]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH: the CUDA sources are not compiled here")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_compiles_without_spills(tmp_path, source):
    targets = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in GPUS]
    process = subprocess.run(
        ["nvcc", *FLAGS, *targets, "-c", source, "-o", tmp_path / "object.o"], capture_output=True, text=True
    )
    if process.returncode != 0:
        pytest.fail("\n".join(line for line in process.stderr.splitlines() if "ptxas info" not in line))
    kernels = {}
    for name, gpu, registers, spilled, stack in kernels_in(demangled(process.stdout + process.stderr)):
        kernels.setdefault(name, {})[gpu] = (registers, spilled, stack)
    assert kernels and all(set(found) == set(GPUS) for found in kernels.values()), process.stderr
    print(f"\n{source.relative_to(ROOT)}: registers (bytes spilled) on " + ", ".join(f"sm_{gpu}" for gpu in GPUS))
    for name, found in sorted(kernels.items()):
        print(f"  {name:32}" + "".join(f"{found[gpu][0]:6} ({found[gpu][1]})" for gpu in GPUS))
    spilling = {name: found for name, found in kernels.items() if any(s or stack for _, s, stack in found.values())}
    assert not spilling, f"kernels that spill or keep a stack, {{GPU: (registers, spilled, stack)}}: {spilling}"
