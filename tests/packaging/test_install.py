"""Installation without a compiler succeeds and says so; an explicit choice that cannot be met fails."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nvrm_fast
from nvrm_fast._version import INTERFACE
from nvrm_fast.info import build_info
from nvrm_fast.ops import registry
from nvrm_fast.ops.step import _SCHEMAS

ROOT = Path(__file__).parents[2]


def build(tmp_path, mode, **environment):
    """Runs setup.py build on a copy of the sources; returns the process, the build facts and the built libraries."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "_build_facts.json")
    shutil.copytree(ROOT / "nvrm_fast", source / "nvrm_fast", ignore=ignore)
    shutil.copytree(ROOT / "csrc", source / "csrc")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    process = subprocess.run(
        [sys.executable, "setup.py", "build"],
        cwd=source,
        env={**os.environ, "NVRM_FAST_BUILD": mode, **environment},
        capture_output=True,
        text=True,
    )
    assert not (source / "nvrm_fast" / "_build_facts.json").exists()  # only an in-place build writes among the sources
    assert not list(source.glob(".ninja*"))
    facts = next((source / "build").glob("lib*/nvrm_fast/_build_facts.json"), None)
    built = json.loads(facts.read_text()) if facts is not None else None
    return process, built, list((source / "build").rglob("*.so"))


def test_none(tmp_path):
    process, facts, libraries = build(tmp_path, "none")
    assert process.returncode == 0, process.stderr
    assert facts["cpu"] == "not built: NVRM_FAST_BUILD=none" and not libraries
    # Whatever was built, the Python files are there and serve: from the build folder, with no native module.
    code = (
        # An editable installation would still find the native module of the sources.
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"
        "import nvrm_fast; assert nvrm_fast.ops.registry._native is None; print(nvrm_fast.noise(3, seed=0)[0].item())\n"
        "try: nvrm_fast.noise(3, seed=0, backend='native')\n"
        "except RuntimeError as error: print(error)"
    )
    library = next((tmp_path / "source" / "build").glob("lib*"))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=library, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(library)},
    )  # fmt: skip
    value, error = result.stdout.splitlines()
    assert float(value) == nvrm_fast.noise(3, seed=0)[0].item()
    assert "NVRM_FAST_BUILD=none" in error and "pip install ." in error


def test_auto_without_a_compiler(tmp_path):
    process, facts, libraries = build(tmp_path, "auto", CXX="no-such-compiler")
    assert process.returncode == 0, process.stderr
    assert "no C++ compiler: 'no-such-compiler' is not on PATH" in facts["cpu"] and not libraries
    assert "no C++ compiler" in process.stderr


def test_auto_with_a_compiler_that_fails(tmp_path):
    process, facts, libraries = build(tmp_path, "auto", CXX="false")
    assert process.returncode == 0, process.stderr
    assert facts["cpu"].startswith("not built: the compiler failed") and not libraries


def test_clang_builds_kernels_that_load(tmp_path):
    """README names it beside g++."""
    if shutil.which("clang++") is None:
        pytest.skip("no clang++")
    # -O0: it is the language that compilers differ in, and optimized it compiles for minutes.
    process, facts, libraries = build(tmp_path, "cpu", CXX="clang++", CC="clang", CXXFLAGS="-O0")
    assert process.returncode == 0, process.stderr
    assert facts["cpu"] == "built" and len(libraries) == 1
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"
        "import torch, nvrm_fast\n"
        "from nvrm_fast.ops import registry\n"
        "print(nvrm_fast.__file__, registry.choose('step_', torch.device('cpu')), registry._native.build_facts())\n"
        "assert torch.equal(nvrm_fast.noise(9, seed=1), nvrm_fast.noise(9, seed=1, backend='reference'))"
    )
    library = str(libraries[0].parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=library, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": library},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert library in done.stdout and " native " in done.stdout and "lang" in done.stdout


@pytest.mark.parametrize(
    "mode, compiler, message",
    [
        ("cpu", "no-such-compiler", "NVRM_FAST_BUILD=cpu: no C++ compiler"),
        ("cuda", "no-such-compiler", "NVRM_FAST_BUILD=cuda: no C++ compiler"),
        ("gpu", "c++", "NVRM_FAST_BUILD must be one of auto, cpu, cuda, none; got 'gpu'"),
    ],
)
def test_an_explicit_choice_fails_hard(tmp_path, mode, compiler, message):
    process, _, _ = build(tmp_path, mode, CXX=compiler)
    assert process.returncode != 0
    assert message in process.stderr


def test_cuda_needs_a_torch_with_cuda(tmp_path):
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    process, _, _ = build(tmp_path, "cuda")
    assert process.returncode != 0
    assert f"NVRM_FAST_BUILD=cuda: torch {torch.__version__} has no CUDA (a CPU build)" in process.stderr


def test_info():
    info = build_info()
    assert info["nvrm_fast"] == nvrm_fast.__version__
    kernels = info["kernels"]["cpu"]
    for name in ("step_", "direction_noise", "stochastic_activation"):
        assert kernels[name]["serves"] == ("native" if registry._native is not None else "reference")
        assert kernels[name]["reference"] == "available"
    assert kernels["direction_variates"]["serves"] == "reference"
    assert kernels["direction_variates"]["triton"].startswith("there is no Triton kernel of direction_variates")
    text = subprocess.run([sys.executable, "-m", "nvrm_fast.info"], capture_output=True, text=True, check=True).stdout
    for line in (f"nvrm_fast: {nvrm_fast.__version__}", "kernels", "  cpu", "built", "processor"):
        assert line in text.splitlines()


def test_instruction_sets():
    if registry._native is None:
        pytest.skip("native kernels not built")
    with pytest.raises(ValueError, match="instruction set 'mmx' is not available on this processor; choose one of"):
        registry._native.use_instruction_set("mmx")
    code = "from nvrm_fast.ops.registry import _native; print(_native.instruction_set())"
    environment = {**os.environ, "NVRM_FAST_INSTRUCTION_SET": "portable"}
    chosen = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert chosen.stdout.strip() == "portable"


def test_native_kernels_of_another_version_are_left_out(tmp_path):
    """A module that was built before an operator changed is not mixed with the new schemas: the import succeeds."""
    if registry._native is None:
        pytest.skip("native kernels not built")
    assert registry.build_facts()["interface"] == INTERFACE
    said = run_with_facts(tmp_path, {**registry.build_facts(), "interface": INTERFACE - 1})
    assert str(tmp_path) in said and "built for another version of nvrm_fast" in said and "[3]" in said


def run_with_facts(tmp_path, facts):
    """What a copy of the package says that has the native module, and other build facts."""
    package = tmp_path / "nvrm_fast"
    shutil.copytree(Path(nvrm_fast.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "_build_facts.json").unlink()
    if facts is not None:
        (package / "_build_facts.json").write_text(json.dumps(facts))
    code = (
        "import torch, nvrm_fast; from nvrm_fast.ops import registry; "
        "print(nvrm_fast.__file__, registry.choose('step_', torch.device('cpu')), "
        "registry.why_missing('step_', 'native', 'cpu'), nvrm_fast.noise(3, seed=1).shape)"
    )
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({"cpu": "not built: NVRM_FAST_BUILD=none", "interface": INTERFACE}, "NVRM_FAST_BUILD=none"),
        (None, "the package is not installed"),
    ],
)
def test_a_native_module_that_the_build_facts_do_not_know_is_left_out(tmp_path, facts, reason):
    """An earlier build's, in a tree that was installed again without native kernels."""
    if registry._native is None:
        pytest.skip("native kernels not built")
    said = run_with_facts(tmp_path, facts)
    assert str(tmp_path) in said and " reference " in said and reason in said


def test_loops_run_on_torchs_threads():
    """No OpenMP of our own: torch may bring another runtime than our compiler's, or none. And no thread more or less
    than torch has: each calls itself by torch's number."""
    if registry._native is None:
        pytest.skip("native kernels not built")
    module = Path(registry._native.__file__).read_bytes()
    assert b"GOMP_" not in module and b"__kmpc_" not in module
    code = (
        "import os, sys, torch, nvrm_fast; torch.set_num_threads(int(sys.argv[1])); torch.ones(1 << 20) + 1\n"
        "before = set(os.listdir('/proc/self/task')); nvrm_fast.noise(1 << 22, seed=1)\n"
        "assert nvrm_fast.ops.registry._native.instruction_set()\n"
        "print(len(before), set(os.listdir('/proc/self/task')) == before)"
    )
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": "3"}
        done = subprocess.run(
            [sys.executable, "-c", code, threads], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[1] == "True", (threads, done.stdout)


def test_the_module_knows_no_torch():
    """One binary for every torch: it asks the loader for no library of torch and for none of its symbols."""
    if registry._native is None or shutil.which("readelf") is None:
        pytest.skip("native kernels not built, or no readelf")
    said = subprocess.run(
        ["readelf", "-d", "--dyn-syms", "-W", registry._native.__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = re.findall(r"NEEDED.*\[(.+?)\]", said)
    assert needed and not [name for name in needed if "torch" in name or "c10" in name], needed
    undefined = re.findall(r"UND (\S+)", said)
    assert undefined and not [name for name in undefined if "torch" in name.lower() or "c10" in name or "2at" in name]


def test_cuda_is_found_behind_a_wrapper(tmp_path):
    """An nvcc that is a script elsewhere says where its headers are; CUDA_HOME goes before the PATH."""
    home, elsewhere = tmp_path / "cuda-13", tmp_path / "somewhere"
    for folder in (home, elsewhere):
        (folder / "bin").mkdir(parents=True)
        nvcc = folder / "bin" / "nvcc"
        nvcc.write_text(f'#!/bin/sh\necho "#$ _SPACE_= " >&2\necho \'#$ INCLUDES="-I{home}/include" \' >&2\n')
        nvcc.chmod(0o755)
    code = (
        "import runpy, setuptools; setuptools.setup = lambda **options: None\n"
        "made = runpy.run_path('setup.py'); nvcc = made['nvcc'](); print(nvcc, nvcc and made['cuda_headers']())"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "CUDA_PATH")}
    environment["PATH"] = f"{elsewhere / 'bin'}{os.pathsep}{environment['PATH']}"

    def found(**more):
        process = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        return process.stdout.split()

    assert found() == [str(elsewhere / "bin/nvcc"), str(home / "include")]
    assert found(CUDA_HOME=str(home)) == [str(home / "bin/nvcc"), str(home / "include")]
    assert found(CUDA_HOME="/chosen")[0] == "None"  # not another toolkit than the one that was asked for
    (elsewhere / "bin" / "nvcc").write_text("#!/bin/sh\n")
    assert found() == [str(elsewhere / "bin/nvcc"), str(elsewhere / "include")]  # beside it, where it says nothing


def test_the_interface_has_a_number():
    """Whoever changes what native code is called with raises INTERFACE, and puts the new schemas' hash here."""
    text = "".join(f"{name}{schema}" for name, schema in sorted(_SCHEMAS.items()))
    assert (INTERFACE, hashlib.sha256(text.encode()).hexdigest()[:16]) == (8, "a4b9dd00218c7209")
