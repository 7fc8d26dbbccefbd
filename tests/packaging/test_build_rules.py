"""What setup.py tells ninja, on systems that are not at hand, too, and answers pip; nothing is compiled."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nvrm_fast.ops.registry import _native

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rules(monkeypatch):
    """A function: the commands by rule's name, of setup.py with such variables of the environment and globals."""
    pytest.importorskip("pybind11")
    monkeypatch.setattr("setuptools.setup", lambda **options: None)

    def rules(with_cuda=False, environment=(), **names):
        for name, value in dict(environment).items():
            monkeypatch.setenv(name, value)
        setup = runpy.run_path(str(ROOT / "setup.py"))["ninja_file"]
        setup.__globals__.update(names)
        text = setup(Path("/a b/objects"), Path("/a b/module"), with_cuda)
        return dict(re.findall(r"^rule (\w+)\n  command = (.+)$", text, re.MULTILINE)), text

    return rules


CUDA = {
    "nvcc": lambda: "/cuda/bin/nvcc",
    "toolkit_version": lambda: "13.0",
    "cuda_headers": lambda: "/cuda/include",
    "torch_here": lambda: None,
}


@pytest.mark.parametrize(
    "compiler, itself",
    [("ccache g++-13 -m64", "g++-13"), ("/usr/bin/sccache clang++", "clang++"), ("/usr/bin/c++ -pipe", "/usr/bin/c++")],
)
def test_nvcc_gets_the_compiler_itself(rules, compiler, itself):
    """-ccbin takes one word, and ccache alone compiles nothing."""
    commands, _ = rules(with_cuda=True, environment={"CXX": compiler}, **CUDA)
    for rule in ("cu", "link"):
        assert re.search(r"-ccbin (\S+)", commands[rule])[1] == itself
    assert commands["cxx"].startswith(compiler + " ")


@pytest.mark.parametrize("windows, quoted", [(True, '"-DX=a b"'), (False, "'-DX=a b'")])
def test_words_are_quoted_as_the_system_wants_it(rules, windows, quoted):
    commands, text = rules(environment={"CXXFLAGS": "'-DX=a b'"}, WINDOWS=windows)
    assert f" {quoted} " in commands["cxx"]
    assert "build /a$ b/module: link /a$ b/objects/csrc/cpu/" in text


def test_an_old_setuptools_is_refused_in_one_line(rules, monkeypatch):
    monkeypatch.setattr("setuptools.__version__", "65.5.0")
    with pytest.raises(SystemExit, match="setuptools 65.5.0 is too old: pip install 'setuptools>=77'"):
        rules()


def test_what_pip_asks_first_leaves_nothing_among_the_sources(tmp_path):
    """They may be read only; it asks this before it builds a wheel."""
    shutil.copytree(ROOT / "nvrm_fast", tmp_path / "nvrm_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    told = subprocess.run([sys.executable, "setup.py", "egg_info"], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0 and "writing" in told.stdout + told.stderr, told.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_no_flag_is_of_one_processor(rules):
    """Files that need an instruction set ask for it themselves, behind a check of the architecture."""
    commands, _ = rules(environment={"CXX": "c++", "CXXFLAGS": ""})
    assert not re.search(r" -(m|Xarch)", commands["cxx"])


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists() or _native is None, reason="no native kernels, or no Linux")
def test_processor_features_are_those_that_linux_sees():
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    seen = flags[1].split() if flags else []
    assert _native.cpu_features() == {name: name in seen for name in _native.cpu_features()}
