"""Every .cu compiles for every GPU it is built for, without a warning and without a spilled register, and reads and
writes whole rows of four elements by wide loads and stores.

nvcc alone: no torch, no GPU. `pytest -s tests/csrc/test_cuda_compiles.py` (make cuda-check) prints the table.
"""

import collections
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


def accesses_in(ptx):
    """(kernel, Counter of its accesses to global memory, such as "ld.v4.f32") of each kernel in demangled PTX."""
    for symbol, body in re.findall(r"\.entry (.+?)\n?\(\n(.*?)\n\}\n", ptx, flags=re.DOTALL):
        found = re.findall(r"\b(ld|st)\.global\.((?:v\d\.)?\w+)", body)
        yield readable(symbol), collections.Counter(f"{way}.{width}" for way, width in found)


STATES = {"NoUpdate": 0, "Sgd<false>": 0, "Sgd<true>": 1, "Adam<false>": 2, "Adam<true>": 3, "Lion": 1}
#: It writes counters and records, no rows.
WITHOUT_ROWS = {"record_kernel"}
#: A row of four elements: its accesses and their kind.
ROWS = {"float32": (1, "v4.f32"), "float64": (2, "v2.f64"), "bfloat16": (1, "v4.u16"), "float16": (1, "v4.u16")}
PER_VISIT = 2  # rows


def wide_accesses(kernel):
    """Loads and stores of whole rows, and how many elements are stored one by one where a row is not whole, both as
    step_thread.h has them in its code: once for each operand that is read or written."""
    if kernel == "noise_kernel":
        return collections.Counter({"st.v4.f32": PER_VISIT}), {"st.f32": PER_VISIT * 4}
    rule, storage, *master = kernel.split(", ")
    state_storage = "float32" if master and storage != "float64" else storage
    has_rule = rule != "NoUpdate"
    # A rule writes a master at two places: clean, or with the noise that it keeps. Noise alone writes none.
    loads = [state_storage] * (1 + STATES[rule]) + [storage] * has_rule
    stores = [state_storage] * (STATES[rule] + (2 * has_rule if master else 0)) + [storage]
    wide, single = collections.Counter(), collections.Counter()
    for way, operands in (("ld", loads), ("st", stores)):
        for count, kind in (ROWS[operand] for operand in operands):
            wide[f"{way}.{kind}"] += PER_VISIT * count
            if way == "st":
                single[f"st.{kind[3:]}"] += PER_VISIT * 4
    return wide, single


def test_a_report_is_understood():
    report = """ptxas info    : Compiling entry function 'void nvrm::step_kernel<nvrm::Sgd<true>, nvrm::BFloat16, \
float, true>(nvrm::LaunchTable)' for 'sm_90'
ptxas info    : Function properties for whatever
    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 88 registers, used 0 barriers"""
    assert list(kernels_in(report)) == [("Sgd<true>, bfloat16, master", "90", 88, 12, 8)]


def test_the_accesses_of_a_kernel_are_understood():
    ptx = """.visible .entry void nvrm::step_kernel<nvrm::Sgd<false>, nvrm::BFloat16, float, true>(nvrm::LaunchTable)(
	.param .align 16 .b8 table[32688]
)
{
	ld.global.v4.f32 	{%f1, %f2, %f3, %f4}, [%rd1];
	@%p1 st.global.u16 	[%rd2], %rs1;
}
"""
    assert list(accesses_in(ptx)) == [("Sgd<false>, bfloat16, master", {"ld.v4.f32": 1, "st.u16": 1})]
    wide, single = wide_accesses("Sgd<false>, bfloat16, master")
    assert wide == {"ld.v4.f32": 2, "ld.v4.u16": 2, "st.v4.f32": 4, "st.v4.u16": 2}
    assert single == {"st.f32": 16, "st.u16": 8}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH: the CUDA sources are not compiled here")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_compiles_without_spills(tmp_path, source):
    targets = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in GPUS]
    process = subprocess.run(
        ["nvcc", *FLAGS, *targets, "--keep", "--keep-dir", tmp_path, "-c", source, "-o", tmp_path / "object.o"],
        capture_output=True,
        text=True,
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
    for file in check_wide_accesses(tmp_path):
        assert set(file) >= set(kernels), "a kernel whose accesses nobody counted"


def check_wide_accesses(folder):
    """Of each GPU's code: fails where a whole row is not read and written by wide accesses alone."""
    files = sorted(folder.glob("*.ptx"))
    assert len(files) == len(GPUS), files
    for file in files:
        counted = dict(accesses_in(demangled(file.read_text())))
        for name, found in counted.items():
            if name in WITHOUT_ROWS:
                continue
            wide, single = wide_accesses(name)
            assert {kind: n for kind, n in found.items() if ".v" in kind} == wide, (file.name, name)
            assert {kind: n for kind, n in found.items() if kind.startswith("st.") and ".v" not in kind} == single, (
                file.name, name, "stores of single elements that belong to whole rows",
            )  # fmt: skip
        yield counted
