"""Builds nvrm_fast's native kernels, where a compiler is found; everything else is in pyproject.toml.

    pip install .

NVRM_FAST_BUILD=auto (default)  native kernels if a compiler is at hand, CUDA's too if the torch of this environment has
                                CUDA and its toolkit is installed; otherwise what is possible, and says why
NVRM_FAST_BUILD=cpu             CPU kernels, or fail
NVRM_FAST_BUILD=cuda            CPU and CUDA kernels, or fail
NVRM_FAST_BUILD=none            pure Python: the plain-torch reference serves

No torch is needed to compile (csrc/python says why). CXX is the compiler, g++ or clang++ or anything that takes their
options; CXXFLAGS and LDFLAGS are added to ours; CUDA_HOME says where nvcc is, unless it is on PATH.
TORCH_CUDA_ARCH_LIST says for which GPUs, as for torch; unset, it is those that are visible, or, where none is, those of
DEFAULT_GPUS.
"""

import atexit
import contextlib
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, __version__, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MODES = ("auto", "cpu", "cuda", "none")
MODE = os.environ.get("NVRM_FAST_BUILD", "auto")
# A100, H100 and H200, B100 and B200; newer ones translate the PTX.
DEFAULT_GPUS = "8.0;9.0;10.0+PTX"
WINDOWS = sys.platform == "win32"
CXX = shlex.split(os.environ.get("CXX", "c++"))
LAUNCHERS = ("ccache", "sccache", "distcc")

# -ffp-contract=off: every fused multiply-add is written out, so that all backends give the same bits; -fmad=false is
# the same of nvcc. No -fopenmp: loops run on torch's threads (csrc/python/parallel.h).
FLAGS = ["-O3", "-DNDEBUG", "-ffp-contract=off", "-fvisibility=hidden", *([] if WINDOWS else ["-fPIC"])]
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi"]
NVCC_FLAGS = ["-O3", "-DNDEBUG", "-std=c++17", "-fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden"]


def sources(with_cuda):
    """Kernels (csrc/cpu, csrc/cuda) know no Python; csrc/python does, for CUDA in *_cuda.cpp."""
    patterns = ["cpu/*.cpp", "python/*.cpp"] + ["cuda/*.cu"] * with_cuda
    found = sorted(path for pattern in patterns for path in (ROOT / "csrc").glob(pattern))
    return [str(path.relative_to(ROOT)) for path in found if with_cuda or not path.stem.endswith("_cuda")]


def why_no_cpu():
    """The reason why CPU kernels cannot be built here, with the remedy, or None."""
    for package in ("ninja", "pybind11"):
        try:
            __import__(package)
        except ImportError:
            return f"{package} is not in the build environment: pip install {package}, or without --no-build-isolation"
    if WINDOWS and "CXX" not in os.environ:
        return "on Windows they need Clang: install it and set CXX=clang++"
    if shutil.which(CXX[0]) is None:
        return f"no C++ compiler: '{CXX[0]}' is not on PATH (install g++ or clang++, or set CXX)"
    return None


def nvcc():
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return shutil.which("nvcc", path=str(Path(home) / "bin") if home else None)


def toolkit_version():
    """Of nvcc, such as "13.0", or None if it cannot be found out."""
    told = subprocess.run([nvcc(), "-V"], capture_output=True, text=True).stdout
    return (re.findall(r"release (\d+\.\d+)", told) or [None])[0]


def torch_here():
    """The torch of the build environment, or None."""
    with contextlib.suppress(ImportError):
        return importlib.import_module("torch")


def why_no_cuda(mode):
    """The reason why CUDA kernels cannot be built here, with the remedy, or None."""
    if WINDOWS:
        return "on Windows they are not: nvcc takes no Clang there"
    torch = torch_here()
    cuda = torch and torch.version.cuda
    if torch is None and mode == "auto":
        return "the build environment has no torch to say which CUDA; NVRM_FAST_BUILD=cuda takes nvcc's"
    if torch is not None and cuda is None:
        return f"torch {torch.__version__} has no CUDA (a CPU build): install a torch with CUDA first"
    if nvcc() is None:
        return f"no CUDA toolkit: install CUDA {cuda or ''}, with nvcc on PATH, or set CUDA_HOME"
    toolkit = toolkit_version()
    if toolkit is None:
        return f"{nvcc()} does not work: install CUDA {cuda or ''}, or set CUDA_HOME"
    if cuda is not None and toolkit.split(".")[0] != cuda.split(".")[0]:
        return f"nvcc is of CUDA {toolkit} but torch of CUDA {cuda}: install CUDA {cuda} and set CUDA_HOME to it"
    return None


def gpus():
    """As TORCH_CUDA_ARCH_LIST says it."""
    cuda = getattr(torch_here(), "cuda", None)
    there = {cuda.get_device_capability(i) for i in range(cuda.device_count())} if cuda else ()
    visible = ";".join(f"{major}.{minor}" for major, minor in sorted(there))
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or visible or DEFAULT_GPUS


def code_for(gpus):
    """nvcc's options for "8.0;9.0+PTX"."""
    options = []
    for gpu in re.split(r"[;, ]+", gpus.strip()):
        number = gpu.removesuffix("+PTX").replace(".", "")
        if not re.fullmatch(r"\d{2,3}[af]?", number):
            sys.exit(f"TORCH_CUDA_ARCH_LIST must be like {DEFAULT_GPUS}; got '{gpus}'")
        kinds = ["sm", "compute"] if gpu.endswith("+PTX") else ["sm"]
        options += [f"-gencode=arch=compute_{number},code={kind}_{number}" for kind in kinds]
    return options


def choose(mode):
    """For "cpu" and "cuda": "built", or why it will not be. Ends the build where an explicit mode cannot be met."""
    if mode not in MODES:
        sys.exit(f"NVRM_FAST_BUILD must be one of {', '.join(MODES)}; got '{mode}'")
    no_cpu = "NVRM_FAST_BUILD=none" if mode == "none" else why_no_cpu()
    no_cuda = no_cpu or ("NVRM_FAST_BUILD=cpu" if mode == "cpu" else why_no_cuda(mode))
    if {"cpu": no_cpu, "cuda": no_cuda}.get(mode):
        sys.exit(f"NVRM_FAST_BUILD={mode}: {no_cpu or no_cuda}")
    reasons = {"cpu": no_cpu, "cuda": no_cuda}
    return {what: f"not built: {reason}" if reason else "built" for what, reason in reasons.items()}


def ninja_file(folder, library, with_cuda):
    """What ninja is told: relative to ROOT, so that only `folder` and `library` may have spaces."""
    import pybind11

    def command(*words):  # ninja hands it to a shell, and on Windows to the system itself
        words = [str(word) for word in words]
        return (subprocess.list2cmdline(words) if WINDOWS else shlex.join(words)).replace("$", "$$")

    def escaped(path):
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    def compiling(rule, *words):
        said = f"  command = {command(*words)} -MD -MF $out.d -c $in -o $out"
        return [f"rule {rule}", said, "  depfile = $out.d", "  deps = gcc"]

    headers = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    cxx = [*CXX, *FLAGS, *WARNINGS, "-std=c++20", *headers, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    ends = {"darwin": ["-undefined", "dynamic_lookup"], "win32": [f"-L{Path(sys.base_prefix) / 'libs'}"]}
    link = [*CXX, "-shared", *ends.get(sys.platform, []), *shlex.split(os.environ.get("LDFLAGS", ""))]
    lines = [f"builddir = {escaped(folder)}"]  # of ninja's own files
    if with_cuda:
        # nvcc takes one word: the compiler itself, without ccache before it and options behind it.
        host, chosen = ["-ccbin", next(word for word in CXX if Path(word).stem not in LAUNCHERS)], gpus()
        # The facts are a string of C, which the shell takes apart once.
        cxx += [f'-DNVRM_WITH_CUDA="CUDA {toolkit_version()} for {chosen}"', f"-isystem{cuda_headers()}"]
        link = [nvcc(), "-shared", "-cudart", "shared", *host]
        lines += compiling("cu", nvcc(), *NVCC_FLAGS, *host, *code_for(chosen))
    lines += [*compiling("cxx", *cxx), "rule link", f"  command = {command(*link)} $in -o $out"]
    objects = {escaped(source): escaped(folder / f"{source}.o") for source in sources(with_cuda)}
    lines += [f"build {made}: {'cu' if source.endswith('.cu') else 'cxx'} {source}" for source, made in objects.items()]
    return "\n".join([*lines, f"build {escaped(library)}: link {' '.join(objects.values())}", ""])


def cuda_headers():
    """Where nvcc has its headers: it may be a script or a link, with nothing beside it."""
    told = subprocess.run([nvcc(), "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
    found = re.search(r'^#\$ INCLUDES="-I(.+?)"', told.stdout + told.stderr, re.M)
    return found[1].strip() if found else Path(nvcc()).parents[1] / "include"


@contextlib.contextmanager
def alone(folder):
    """Nobody else builds in a folder: another process that wants to waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if not WINDOWS:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Build(build):
    """Runs build_ext also where no extension is asked for: it writes down what was built."""

    sub_commands = [(name, None if name == "build_ext" else when) for name, when in build.sub_commands]


class BuildKernels(build_ext):
    """In auto mode a failing compiler makes an installation without native kernels, and _build_facts.json says why."""

    def run(self):
        facts = choose(MODE)
        for what, outcome in facts.items():
            print(f"nvrm_fast: {what} kernels {outcome}", file=sys.stderr)
        package = ROOT / "nvrm_fast" if self.inplace else Path(self.build_lib) / "nvrm_fast"
        package.mkdir(parents=True, exist_ok=True)
        while facts["cpu"] == "built":
            what = "cuda" if facts["cuda"] == "built" else "cpu"
            try:
                self.compile(package, with_cuda=what == "cuda")
                break
            except (OSError, subprocess.CalledProcessError) as error:
                facts[what] = f"not built: the compiler failed ({type(error).__name__}: {error})"
                if MODE != "auto":
                    raise SystemExit(f"NVRM_FAST_BUILD={MODE}: {what} kernels {facts[what]}") from error
                print(f"nvrm_fast: {what} kernels {facts[what]}; going on without", file=sys.stderr)
        if facts["cpu"] != "built":
            self.extensions = []
            said = f"\nnvrm_fast: cpu kernels {facts['cpu']}. Slow plain torch will serve in their place.\n"
            # pip shows nothing of a build that succeeds; where there is no terminal, pip install -v shows it.
            with contextlib.suppress(OSError):
                Path("/dev/tty" if MODE == "auto" else os.devnull).write_text(said)
        facts["interface"] = runpy.run_path(str(ROOT / "nvrm_fast/_version.py"))["INTERFACE"]
        (package / "_build_facts.json").write_text(json.dumps(facts, indent=2) + "\n")

    def compile(self, package, with_cuda):
        folder = Path(self.build_temp).resolve()
        name = Path(self.get_ext_filename("nvrm_fast._native")).name
        linked = folder / f"{name}.linked"  # no module: that is the copy in the package
        with alone(folder):
            (folder / "build.ninja").write_text(ninja_file(folder, linked, with_cuda))
            # As a module, wherever pip has put its program.
            subprocess.run([sys.executable, "-m", "ninja", "-f", folder / "build.ninja"], cwd=ROOT, check=True)
            shutil.copy(linked, package / f"{name}.new")
            os.replace(package / f"{name}.new", package / name)  # at once: a process may have it open


if int(__version__.split(".")[0]) < 77:  # it would stop at pyproject.toml's licence, with 87 lines
    sys.exit(f"setuptools {__version__} is too old: pip install 'setuptools>=77', or without --no-build-isolation")
options = {}
if {"bdist_wheel", "egg_info"} & set(sys.argv):
    # Not among the sources: they may be read only, and two installations may be under way.
    folder = tempfile.mkdtemp(prefix="nvrm_fast-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = {"build": {"build_base": folder}, "egg_info": {"egg_base": folder}}

setup(
    # The sources, and how they are compiled, are chosen by BuildKernels.
    ext_modules=[] if MODE == "none" else [Extension("nvrm_fast._native", sources(False))],
    cmdclass={"build": Build, "build_ext": BuildKernels},
    options=options,
)
