"""Builds nvrm_fast, with native kernels where a compiler is found.

    pip install --no-build-isolation .

NVRM_FAST_BUILD=auto (default)  native kernels if torch and a compiler are at hand; otherwise none, and says why
NVRM_FAST_BUILD=cpu             CPU kernels, or fail
NVRM_FAST_BUILD=cuda            CPU and CUDA kernels, or fail
NVRM_FAST_BUILD=none            pure Python: the plain-torch reference serves
"""

import json
import os
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
MODES = ("auto", "cpu", "cuda", "none")
CPU_SOURCES = [
    "csrc/bindings.cpp",
    "csrc/cpu/kernels_avx2.cpp",
    "csrc/cpu/kernels_avx512.cpp",
    "csrc/cpu/kernels_portable.cpp",
    "csrc/cpu/pages.cpp",
    "csrc/cpu/select.cpp",
    "csrc/noise/noise_cpu.cpp",
    "csrc/optim/step_cpu.cpp",
    "csrc/optim/table.cpp",
]


def version():
    text = (ROOT / "nvrm_fast" / "_version.py").read_text()
    return text.split('"')[1]


def why_no_cpu():
    """The reason why CPU kernels cannot be built here, or None."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return "torch is not installed in the build environment (use: pip install --no-build-isolation .)"
    compiler = os.environ.get("CXX", "c++").split()[0]
    if sys.platform == "win32":
        return "native kernels need GCC or Clang; Windows is not supported yet"
    if shutil.which(compiler) is None:
        return f"no C++ compiler: '{compiler}' is not on PATH (install g++ or clang++, or set CXX)"
    return None


def cpu_extension():
    import torch
    from torch.utils.cpp_extension import CppExtension

    # -ffp-contract=off: every fused multiply-add is written out, so that all backends give the same bits.
    flags = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
    if "OpenMP" in torch.__config__.parallel_info().split("ATen parallel backend:")[-1]:
        # Compiled with, but not linked to, OpenMP: at load time the calls find the very runtime that torch brought,
        # so there is one thread pool and torch.set_num_threads governs it.
        flags.append("-fopenmp")
    return CppExtension("nvrm_fast._native", CPU_SOURCES, extra_compile_args={"cxx": flags})


def choose(mode):
    """Extensions to build, and what to tell the user about it."""
    if mode not in MODES:
        sys.exit(f"NVRM_FAST_BUILD must be one of {', '.join(MODES)}; got '{mode}'")
    cuda_reason = "this version has no CUDA kernels yet; on CUDA tensors the plain-torch reference serves"
    if mode == "cuda":
        sys.exit(f"NVRM_FAST_BUILD=cuda: {cuda_reason}")
    if mode == "none":
        return [], {"cpu": "not built: NVRM_FAST_BUILD=none", "cuda": "not built: NVRM_FAST_BUILD=none"}
    reason = why_no_cpu()
    if reason is not None:
        if mode == "cpu":
            sys.exit(f"NVRM_FAST_BUILD=cpu: {reason}")
        return [], {"cpu": f"not built: {reason}", "cuda": f"not built: {reason}"}
    return [cpu_extension()], {"cpu": "built", "cuda": f"not built: {cuda_reason}"}


def build_command(mode, facts):
    """torch's build_ext, which in auto mode turns a failing compiler into an installation without native kernels."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def run(self):
            try:
                super().run()
            except Exception as error:
                if mode != "auto":
                    raise
                facts["cpu"] = f"not built: the compiler failed ({type(error).__name__}: {error})"
                print(f"nvrm_fast: CPU kernels {facts['cpu']}", file=sys.stderr)
                self.extensions = []
                write_facts(facts)

    return Build.with_options(use_ninja=True)


def write_facts(facts):
    (ROOT / "nvrm_fast" / "_build_facts.json").write_text(json.dumps(facts, indent=2) + "\n")


mode = os.environ.get("NVRM_FAST_BUILD", "auto")
extensions, facts = choose(mode)
write_facts(facts)
for what, outcome in facts.items():
    print(f"nvrm_fast: {what} kernels {outcome}", file=sys.stderr)

setup(
    name="nvrm_fast",
    version=version(),
    description="Neural variability at no cost: fused noisy optimizers whose noise is a function, not a tensor",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["nvrm_fast", "nvrm_fast.*"]),
    package_data={"nvrm_fast": ["_build_facts.json", "py.typed"]},
    install_requires=["torch>=2.10"],
    extras_require={
        "demo": ["matplotlib", "mlxtend", "tqdm"],
        "test": ["matplotlib", "mlxtend", "numpy", "pytest", "pytest-benchmark", "scipy", "tqdm"],
    },
    ext_modules=extensions,
    cmdclass={"build_ext": build_command(mode, facts)} if extensions else {},
)
