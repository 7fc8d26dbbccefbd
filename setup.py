"""Builds nvrm_fast, with native kernels where a compiler is found.

    pip install --no-build-isolation .

NVRM_FAST_BUILD=auto (default)  native kernels if torch and a compiler are at hand, CUDA's too if torch has CUDA and
                                its toolkit is installed; otherwise what is possible, and says why
NVRM_FAST_BUILD=cpu             CPU kernels, or fail
NVRM_FAST_BUILD=cuda            CPU and CUDA kernels, or fail
NVRM_FAST_BUILD=none            pure Python: the plain-torch reference serves

TORCH_CUDA_ARCH_LIST says for which GPUs (torch's own variable); unset, it is the GPUs that are visible, or, where none
is, those of DEFAULT_GPUS.
"""

import json
import os
import re
import shutil
import subprocess
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
    "csrc/layers/local_avx2.cpp",
    "csrc/layers/local_avx512.cpp",
    "csrc/layers/local_cpu.cpp",
    "csrc/layers/local_portable.cpp",
    "csrc/layers/stochastic_avx2.cpp",
    "csrc/layers/stochastic_avx512.cpp",
    "csrc/layers/stochastic_cpu.cpp",
    "csrc/layers/stochastic_portable.cpp",
    "csrc/noise/noise_cpu.cpp",
    "csrc/optim/step_cpu.cpp",
    "csrc/optim/table.cpp",
]
# Kernels only, no torch in them; the glue knows torch.
CUDA_SOURCES = [
    "csrc/cuda/noise.cu",
    "csrc/cuda/step_adam.cu",
    "csrc/cuda/step_sgd.cu",
    "csrc/noise/noise_cuda.cpp",
    "csrc/optim/step_cuda.cpp",
]
# A100, H100 and H200, B100 and B200; newer ones translate the PTX.
DEFAULT_GPUS = "8.0;9.0;10.0+PTX"


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


def toolkit_version(cuda_home):
    """Of nvcc, such as "13.0", or None if it cannot be found out."""
    try:
        text = subprocess.run([Path(cuda_home) / "bin" / "nvcc", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    found = re.search(r"release (\d+\.\d+)", text)
    return found and found.group(1)


def why_no_cuda():
    """The reason why CUDA kernels cannot be built here, with the remedy, or None."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA (a CPU build): install a torch with CUDA first"
    if CUDA_HOME is None:
        return f"no CUDA toolkit: install CUDA {torch.version.cuda}, with nvcc on PATH, or set CUDA_HOME"
    toolkit = toolkit_version(CUDA_HOME)
    if toolkit is None:
        return f"no working nvcc in {CUDA_HOME}: install CUDA {torch.version.cuda}, or set CUDA_HOME"
    if toolkit.split(".")[0] != torch.version.cuda.split(".")[0]:
        return (
            f"nvcc is of CUDA {toolkit} but torch of CUDA {torch.version.cuda}: their major versions must be equal; "
            f"install CUDA {torch.version.cuda} and set CUDA_HOME to it"
        )
    return None


def extension(with_cuda):
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, CppExtension, CUDAExtension

    # -ffp-contract=off: every fused multiply-add is written out, so that all backends give the same bits.
    flags = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
    if "OpenMP" in torch.__config__.parallel_info().split("ATen parallel backend:")[-1]:
        # Compiled with, but not linked to, OpenMP: at load time the calls find the very runtime that torch brought,
        # so there is one thread pool and torch.set_num_threads governs it.
        flags.append("-fopenmp")
    if not with_cuda:
        return CppExtension("nvrm_fast._native", CPU_SOURCES, extra_compile_args={"cxx": flags})

    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = DEFAULT_GPUS
    gpus = os.environ.get("TORCH_CUDA_ARCH_LIST") or "the GPUs visible when it was built"
    facts = f"CUDA {toolkit_version(CUDA_HOME)} for {gpus}"
    # torch's CUDA headers have unused parameters.
    flags += [f'-DNVRM_WITH_CUDA="{facts}"', "-Wno-unused-parameter"]
    # -fmad=false is what -ffp-contract=off is above. No -std: torch's build helper knows which. No flag may contain
    # "arch": the helper would then ignore TORCH_CUDA_ARCH_LIST.
    nvcc_flags = ["-O3", "-fmad=false", "-Xcompiler", "-fvisibility=hidden"]
    return CUDAExtension(
        "nvrm_fast._native",
        CPU_SOURCES + CUDA_SOURCES,
        extra_compile_args={"cxx": flags, "nvcc": nvcc_flags},
    )


def choose(mode):
    """Extensions to build, and what to tell the user about it."""
    if mode not in MODES:
        sys.exit(f"NVRM_FAST_BUILD must be one of {', '.join(MODES)}; got '{mode}'")
    if mode == "none":
        return [], {"cpu": "not built: NVRM_FAST_BUILD=none", "cuda": "not built: NVRM_FAST_BUILD=none"}
    reason = why_no_cpu()
    if reason is not None:
        if mode in ("cpu", "cuda"):
            sys.exit(f"NVRM_FAST_BUILD={mode}: {reason}")
        return [], {"cpu": f"not built: {reason}", "cuda": f"not built: {reason}"}
    reason = "NVRM_FAST_BUILD=cpu" if mode == "cpu" else why_no_cuda()
    if reason is not None and mode == "cuda":
        sys.exit(f"NVRM_FAST_BUILD=cuda: {reason}")
    return [extension(reason is None)], {"cpu": "built", "cuda": "built" if reason is None else f"not built: {reason}"}


def build_command(mode, facts):
    """torch's build_ext, which in auto mode turns a failing compiler into an installation without native kernels."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def run(self):
            requested = self.compiler  # run() puts an object in the place of the name
            try:
                super().run()
            except Exception as error:
                if mode != "auto":
                    raise
                outcome = f"not built: the compiler failed ({type(error).__name__}: {error})"
                if facts["cuda"] == "built":
                    facts["cuda"] = outcome
                    print(f"nvrm_fast: CUDA kernels {outcome}; going on without", file=sys.stderr)
                    for native in self.extensions:
                        native.sources = list(CPU_SOURCES)
                        flags = native.extra_compile_args["cxx"]
                        flags[:] = [flag for flag in flags if "NVRM_WITH_CUDA" not in flag]
                    self.compiler = requested
                    self.run()
                else:
                    facts["cpu"] = outcome
                    print(f"nvrm_fast: CPU kernels {outcome}", file=sys.stderr)
                    self.extensions = []
                write_facts(facts)

    return Build.with_options(use_ninja=True)


def interface():
    """Of the operators; see nvrm_fast/_version.py."""
    text = (ROOT / "nvrm_fast" / "_version.py").read_text()
    return int(re.search(r"^INTERFACE = (\d+)", text, re.M)[1])


def write_facts(facts):
    (ROOT / "nvrm_fast" / "_build_facts.json").write_text(
        json.dumps({**facts, "interface": interface()}, indent=2) + "\n"
    )


mode = os.environ.get("NVRM_FAST_BUILD", "auto")
extensions, facts = [], {}
if not {"sdist", "egg_info", "dist_info", "--version"} & set(sys.argv):  # these build nothing: no word about kernels
    extensions, facts = choose(mode)
    write_facts(facts)
    for what, outcome in facts.items():
        print(f"nvrm_fast: {what} kernels {outcome}", file=sys.stderr)

setup(
    name="nvrm_fast",
    version=version(),
    description="Neural variability at no cost: fused noisy optimizers whose noise is a function, not a tensor",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["nvrm_fast", "nvrm_fast.*"]),
    package_data={"nvrm_fast": ["_build_facts.json", "py.typed"]},
    install_requires=["torch>=2.10"],
    extras_require={
        "demo": ["matplotlib", "mlxtend", "scipy", "tqdm"],
        # What the studies of the NVRM paper are held against.
        "baselines": ["ivon-opt", "pytorch_optimizer"],
        # What bench/ compares with. Of torch-uncertainty's layers the import needs a torchvision of the same torch.
        "bench": ["bayesian-torch", "ivon-opt", "matplotlib", "torch-uncertainty"],
        # The oldest releases whose source has the events used here; the tests run with what pip installs, the newest.
        "integrations": ["accelerate>=1.0", "lightning>=2.2", "transformers>=4.46"],
        "test": [
            "expecttest",  # torch.testing._internal imports it
            "foolbox",
            "hypothesis",
            "matplotlib",
            "mlxtend",
            "numpy",
            "pillow",
            "pytest",
            "pytest-benchmark",
            "pytest-xdist",
            "scipy",
            "torch-pruning>=1.6",
            "tqdm",
            "triton",
        ],
        # Confidence intervals of nvrm_fast.probe.
        "probe": ["scipy"],
        "triton": ["triton"],
    },
    ext_modules=extensions,
    cmdclass={"build_ext": build_command(mode, facts)} if extensions else {},
)
