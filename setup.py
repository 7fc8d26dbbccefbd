"""Builds nvrm_fast's native kernels, where a compiler is found; everything else is in pyproject.toml.

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

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
MODES = ("auto", "cpu", "cuda", "none")
MODE = os.environ.get("NVRM_FAST_BUILD", "auto")
# A100, H100 and H200, B100 and B200; newer ones translate the PTX.
DEFAULT_GPUS = "8.0;9.0;10.0+PTX"


def sources(with_cuda):
    """Kernels (csrc/cpu, csrc/cuda) know no torch; the operators (csrc/torch) do, those for CUDA in *_cuda.cpp."""
    patterns = ["cpu/*.cpp", "torch/*.cpp"] + ["cuda/*.cu"] * with_cuda
    found = sorted(path for pattern in patterns for path in (ROOT / "csrc").glob(pattern))
    return [str(path.relative_to(ROOT)) for path in found if with_cuda or not path.stem.endswith("_cuda")]


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


def find_cuda_home():
    """torch takes the folder above the nvcc on PATH; where that nvcc is a wrapper script or a link, nothing is there,
    and nvcc itself knows better. To be called before torch's build helper is imported."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return
    if (Path(nvcc).parents[1] / "include" / "cuda_runtime.h").exists():
        return
    told = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
    found = re.search(r"^#\$ _HERE_=(.+)$", told.stdout + told.stderr, re.M)
    if found:
        os.environ["CUDA_HOME"] = str(Path(found[1]).resolve().parent)


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

    find_cuda_home()
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

    # -g0: Python asks for debug information, 70 MB of it. -ffp-contract=off: every fused multiply-add is written out,
    # so that all backends give the same bits. No -fopenmp: loops run on torch's threads (csrc/torch/parallel.h).
    flags = ["-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
    if not with_cuda:
        return CppExtension("nvrm_fast._native", sources(False), extra_compile_args={"cxx": flags})

    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = DEFAULT_GPUS
    gpus = os.environ.get("TORCH_CUDA_ARCH_LIST") or "the GPUs visible when it was built"
    facts = f"CUDA {toolkit_version(CUDA_HOME)} for {gpus}"
    # torch's CUDA headers have unused parameters.
    flags += [f'-DNVRM_WITH_CUDA="{facts}"', "-Wno-unused-parameter"]
    # -fmad=false is what -ffp-contract=off is above. No -std: torch's build helper knows which. No flag may contain
    # "arch": the helper would then ignore TORCH_CUDA_ARCH_LIST.
    nvcc_flags = ["-O3", "-fmad=false", "-Xcompiler", "-fvisibility=hidden"]
    return CUDAExtension("nvrm_fast._native", sources(True), extra_compile_args={"cxx": flags, "nvcc": nvcc_flags})


def choose(mode):
    """For "cpu" and "cuda": "built", or why it will not be. Ends the build where an explicit mode cannot be met."""
    if mode not in MODES:
        sys.exit(f"NVRM_FAST_BUILD must be one of {', '.join(MODES)}; got '{mode}'")
    reason = "NVRM_FAST_BUILD=none" if mode == "none" else why_no_cpu()
    if reason is not None:
        if mode in ("cpu", "cuda"):
            sys.exit(f"NVRM_FAST_BUILD={mode}: {reason}")
        return {"cpu": f"not built: {reason}", "cuda": f"not built: {reason}"}
    reason = "NVRM_FAST_BUILD=cpu" if mode == "cpu" else why_no_cuda()
    if reason is not None and mode == "cuda":
        sys.exit(f"NVRM_FAST_BUILD=cuda: {reason}")
    return {"cpu": "built", "cuda": "built" if reason is None else f"not built: {reason}"}


def interface():
    """Of the operators; see nvrm_fast/_version.py."""
    text = (ROOT / "nvrm_fast" / "_version.py").read_text()
    return int(re.search(r"^INTERFACE = (\d+)", text, re.M)[1])


class Build(build):
    """Runs build_ext also where no extension is asked for: it writes down what was built."""

    sub_commands = [(name, None if name == "build_ext" else when) for name, when in build.sub_commands]


def tell_on_terminal(line):
    """pip shows nothing of a build that succeeds; who installs should still know that it has no kernels."""
    try:
        with open("/dev/tty", "w") as terminal:
            terminal.write(f"\n{line}\n")
    except OSError:
        pass  # no terminal: pip install -v shows what was printed


class BuildKernels(build_ext):
    """In auto mode a failing compiler makes an installation without native kernels, and _build_facts.json says why."""

    def run(self):
        facts = choose(MODE)
        for what, outcome in facts.items():
            print(f"nvrm_fast: {what} kernels {outcome}", file=sys.stderr)
        while facts["cpu"] == "built":
            with_cuda = facts["cuda"] == "built"
            try:
                self.compile(with_cuda)
                break
            except Exception as error:
                if MODE != "auto":
                    raise
                what = "cuda" if with_cuda else "cpu"
                facts[what] = f"not built: the compiler failed ({type(error).__name__}: {error})"
                print(f"nvrm_fast: {what} kernels {facts[what]}; going on without", file=sys.stderr)
        if facts["cpu"] != "built":
            self.extensions = []
            if MODE == "auto":
                tell_on_terminal(f"nvrm_fast: cpu kernels {facts['cpu']}. Slow plain torch will serve in their place.")
        package = ROOT / "nvrm_fast" if self.inplace else Path(self.build_lib) / "nvrm_fast"
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build_facts.json").write_text(json.dumps({**facts, "interface": interface()}, indent=2) + "\n")

    def compile(self, with_cuda):
        """By torch's own build_ext, which exists only where torch is."""
        from torch.utils.cpp_extension import BuildExtension

        self.distribution.ext_modules = [extension(with_cuda)]
        command = BuildExtension.with_options(use_ninja=True)(self.distribution)
        for option in ("build_lib", "build_temp", "inplace", "editable_mode", "debug", "parallel", "compiler"):
            setattr(command, option, getattr(self, option))
        command.ensure_finalized()
        command.run()


setup(
    # The sources, and the extension proper, are chosen by BuildKernels.
    ext_modules=[] if MODE == "none" else [Extension("nvrm_fast._native", sources(False))],
    cmdclass={"build": Build, "build_ext": BuildKernels},
)
