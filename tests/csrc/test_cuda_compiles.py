"""Every .cu compiles for every GPU it is built for, without a warning and without a spilled register, and reads and
writes whole rows of four elements by wide loads and stores.

nvcc, no GPU. `NVRM_FAST_EVERY_KERNEL=1 pytest -s tests/csrc/test_cuda_compiles.py` (make cuda-check) prints the table;
otherwise of the sources for relative noise one is compiled, and for one GPU, as are steps in other than float32.
"""

import collections
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pybind11
import pytest
from every_kernel import EVERY_KERNEL

ROOT = Path(__file__).parents[2]
GPUS = ("80", "90", "100")
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))
#: Sources of relative noise, of which otherwise one is compiled, for one GPU.
RELATIVE = [source for source in SOURCES if source.name.startswith("relative_")]
COMPILED = [s for s in SOURCES if EVERY_KERNEL or s not in RELATIVE or s.name == "relative_float32.cu"]
#: Those compiled for one GPU otherwise: steps of other numbers than float32, whose code is the same template's.
FOR_ONE_GPU = [*RELATIVE, *(s for s in SOURCES if s.name.startswith("step_") and s.name != "step_float32.cu")]
GLUE = sorted((ROOT / "csrc/python").glob("*_cuda.cpp"))
COMPILER = shutil.which(os.environ.get("CXX", "c++").split()[0])
FLAGS = ["-O3", "-std=c++17", "-fmad=false", "-Werror", "all-warnings", "-Xptxas", "-v", "--threads", "2"]


def cuda_headers():
    """The toolkit's folder of headers, as nvcc tells it, or None."""
    if shutil.which("nvcc") is None:
        return None
    told = subprocess.run(["nvcc", "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
    found = re.search(r'^#\$ INCLUDES="-I(.+?)"', told.stdout + told.stderr, re.M)
    return found and found[1].strip()


CUDA_HEADERS = cuda_headers()

STORAGE = {
    "float, float": "float32",
    "double, double": "float64",
    "nvrm::BFloat16, float": "bfloat16",
    "nvrm::Float16, float": "float16",
}


WAYS = {"false": "forward", "true": "backward"}


def readable(symbol):
    """A kernel's name, and its instance: of a step or a layer."""
    layer = re.search(r"(stochastic|direction)_kernel<(?:.*?::)?(?:Sums\))?(\w+), (true|false)>", symbol)
    if layer is not None:
        name, instance, backward = layer.groups()
        return f"{name} {instance}, {WAYS[backward]}"
    storages = "float, float|double, double|nvrm::\\w+, float"
    match = re.search(rf"step_kernel<nvrm::(.+), ({storages}), (true|false), (true|false)>", symbol)
    if match is None:
        return re.sub(r".*::", "", symbol.split("(nvrm")[0])
    rule, storage, *options = match.groups()
    names = [name for name, option in zip(("master", "relative"), options) if option == "true"]
    return ", ".join([rule, STORAGE[storage], *names])


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
        # float32 that only changes places, or is looked at as bits, is 32 bits to the compiler.
        yield readable(symbol), collections.Counter(f"{way}.{width.replace('u32', 'f32')}" for way, width in found)


STATES = {
    "OnlyMeasure": 0,
    "NoUpdate": 0,
    "Sgd<false>": 0,
    "Sgd<true>": 1,
    "Adam<false>": 2,
    "Adam<true>": 3,
    "Lion": 1,
}
#: Counters and records; measures; the sum of a place down the objects: no rows.
WITHOUT_ROWS = {"record_kernel", "finish_kernel", "neuron_sums_kernel"}
#: A row of four elements: its accesses and their kind.
ROWS = {"float32": (1, "v4.f32"), "float64": (2, "v2.f64"), "bfloat16": (1, "v4.u16"), "float16": (1, "v4.u16")}
PER_VISIT = 2  # rows


def wide_accesses(kernel):
    """Loads and stores of whole rows, and of single elements (those of two rows, and one in a loop), both as
    step_thread.h has them in its code: once for each operand that is read or written."""
    if kernel == "noise_kernel":
        return collections.Counter({"st.v4.f32": PER_VISIT}), {"st.f32": PER_VISIT * 4}
    if kernel.startswith(("stochastic", "direction")):
        return wide_accesses_of_a_layer(*re.split(",? ", kernel))
    rule, storage, *options = kernel.split(", ")
    master = "master" in options
    state_storage = "float32" if master and storage != "float64" else storage
    has_rule = rule not in ("NoUpdate", "OnlyMeasure")
    # A rule writes a master at two places: clean, or with the noise that it keeps. Noise alone writes none.
    loads = [state_storage] * (1 + STATES[rule]) + [storage] * has_rule
    stores = [state_storage] * (STATES[rule] + 2 * has_rule * master) + [storage] * (rule != "OnlyMeasure")
    wide, single = collections.Counter(), collections.Counter()
    for way, operands in (("ld", loads), ("st", stores)):
        for count, kind in (ROWS[operand] for operand in operands):
            wide[f"{way}.{kind}"] += PER_VISIT * count
            if way == "st":
                single[f"st.{kind[3:]}"] += PER_VISIT * 4 + 1
    return wide, single


def wide_accesses_of_a_layer(layer, instance, way):
    """The same for a layer's pass, which knows its storage when it runs: each is there once, of three."""
    backward = way == "backward"
    if layer == "stochastic":
        # Means and raw deviations, and a gradient; activations, or two gradients.
        rows, loads, stores = PER_VISIT, 2 + backward, 1 + backward
        more_loads = PER_VISIT * (instance == "1" and backward)  # weights
        more_stores = int(instance == "1" and not backward)
    else:
        directed = instance != "NoDirection"
        rows, loads, stores = 1, 1 + backward, 1
        more_loads, more_stores = int(directed), int(directed and backward)  # a given tangent part
    wide = {
        "ld.v4.f32": rows * loads + more_loads,
        "ld.v4.u16": 2 * rows * loads,
        "st.v4.f32": rows * stores + more_stores,
        "st.v4.u16": 2 * rows * stores,
    }
    return wide, {"st.f32": 4 * (rows * stores + more_stores), "st.u16": 8 * rows * stores}


def most_stores_of_sums(kernel):
    """How many stores of single float32 in a layer's pass are of sums: each may be there twice, where the compiler has
    parted the ways that lead to it. Seven for neurons, at two places, and two for |x|^2; one for objects."""
    return {"direction": 18, "stochastic": 2}.get(kernel.split()[0], 0)


def test_a_report_is_understood():
    report = """ptxas info    : Compiling entry function 'void nvrm::step_kernel<nvrm::Sgd<true>, nvrm::BFloat16, \
float, true, false>(nvrm::LaunchTable)' for 'sm_90'
ptxas info    : Function properties for whatever
    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 88 registers, used 0 barriers"""
    assert list(kernels_in(report)) == [("Sgd<true>, bfloat16, master", "90", 88, 12, 8)]


def test_the_accesses_of_a_kernel_are_understood():
    ptx = """.visible .entry void nvrm::step_kernel<nvrm::Sgd<false>, nvrm::BFloat16, float, true, true>(\
nvrm::LaunchTable)(
	.param .align 16 .b8 table[32688]
)
{
	ld.global.v4.f32 	{%f1, %f2, %f3, %f4}, [%rd1];
	@%p1 st.global.u16 	[%rd2], %rs1;
}
"""
    assert list(accesses_in(ptx)) == [("Sgd<false>, bfloat16, master, relative", {"ld.v4.f32": 1, "st.u16": 1})]
    wide, single = wide_accesses("Sgd<false>, bfloat16, master")
    assert wide == {"ld.v4.f32": 2, "ld.v4.u16": 2, "st.v4.f32": 4, "st.v4.u16": 2}
    assert single == {"st.f32": 18, "st.u16": 9}


def test_the_instances_of_layers_are_understood():
    own = "nvrm::(anonymous namespace)::"
    assert readable(f"void {own}stochastic_kernel<(nvrm::Sums)2, true>(nvrm::StochasticArguments)") == (
        "stochastic 2, backward"
    )
    assert readable(f"void {own}direction_kernel<{own}Tangent, false>(nvrm::DirectionArguments)") == (
        "direction Tangent, forward"
    )


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH: the CUDA sources are not compiled here")
@pytest.mark.parametrize("source", COMPILED, ids=lambda source: source.name)
def test_compiles_without_spills(tmp_path, source):
    gpus = GPUS if EVERY_KERNEL or source not in FOR_ONE_GPU else ("90",)
    targets = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in gpus]
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
    assert kernels and all(set(found) == set(gpus) for found in kernels.values()), process.stderr
    print(f"\n{source.relative_to(ROOT)}: registers (bytes spilled) on " + ", ".join(f"sm_{gpu}" for gpu in gpus))
    for name, found in sorted(kernels.items()):
        print(f"  {name:38}" + "".join(f"{found[gpu][0]:6} ({found[gpu][1]})" for gpu in gpus))
    spilling = {name: found for name, found in kernels.items() if any(s or stack for _, s, stack in found.values())}
    assert not spilling, f"kernels that spill or keep a stack, {{GPU: (registers, spilled, stack)}}: {spilling}"
    for file in check_wide_accesses(tmp_path, gpus):
        assert set(file) >= set(kernels), "a kernel whose accesses nobody counted"


@pytest.mark.skipif(COMPILER is None or CUDA_HEADERS is None, reason="no C++ compiler or no CUDA toolkit")
@pytest.mark.parametrize("source", GLUE, ids=lambda source: source.name)
def test_the_glue_is_understood(source):
    """What launches the kernels; no torch is needed for it."""
    headers = [f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"), CUDA_HEADERS)]
    flags = ["-std=c++20", "-fvisibility=hidden", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    command = [COMPILER, *flags, *headers, source]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def check_wide_accesses(folder, gpus):
    """Of each GPU's code: fails where a whole row is not read and written by wide accesses alone."""
    files = sorted(folder.glob("*.ptx"))
    assert len(files) == len(gpus), files
    for file in files:
        counted = dict(accesses_in(demangled(file.read_text())))
        for name, found in counted.items():
            if name in WITHOUT_ROWS:
                continue
            wide, single = wide_accesses(name)
            assert {kind: n for kind, n in found.items() if ".v" in kind} == wide, (file.name, name)
            more = collections.Counter({k: n for k, n in found.items() if k.startswith("st.") and ".v" not in k})
            more.subtract(single)
            assert 0 <= more.pop("st.f32", 0) <= most_stores_of_sums(name) and not any(more.values()), (
                file.name, name, more, "stores of single elements that belong to whole rows",
            )  # fmt: skip
        yield counted
