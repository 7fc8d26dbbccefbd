"""docs/extend_noise.md, step by step, on a copy: the reference's, the C++ and the Triton law have the same bits."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from pages import ROOT, apply, changes, page

COMPILER = os.environ.get("CXX", "c++").split()[0]
STEPS = changes(page("docs/extend_noise.md"))
REFERENCE = "nvrm_fast/reference/distribution.py"
#: The files to change and the number of changes to each.
FILES = {REFERENCE: 1, "csrc/math/distribution.h": 2, "nvrm_fast/triton/distribution.py": 2}

PROGRAM = """
#include <cstdio>
#include "distribution.h"
template <int code> struct Law;
#define LAW(code, name) template <> struct Law<code> { using type = nvrm::name; };
NVRM_FOR_EACH_DISTRIBUTION(LAW)
int main() {
  uint32_t word = 1;
  for (int i = 0; i < 4096; ++i, word = word * 1664525u + 1013904223u) {
    float values[2];
    Law<nvrm::distribution_count - 1>::type::values<nvrm::ScalarLanes>(word, values, values + 1);
    std::fwrite(&word, 4, 1, stdout);
    std::fwrite(values, 4, 2, stdout);
  }
}
"""

BY_TRITON = """
import torch
from nvrm_fast import NVRMSGD, noise
for numel, offset in ((129, 0), (1000, 77)):
    draws = [noise(numel, seed=3, offset=offset, distribution="triangular", scale=0.1, backend=backend)
             for backend in ("triton", "reference")]
    assert torch.equal(*draws)
weight = torch.nn.Parameter(torch.zeros(300))
optimizer = NVRMSGD([weight], lr=0.1, variability=0.1, noise="triangular", backend="reference")
weight.grad = torch.ones(300)
optimizer.step()
assert 0.03 < weight.std() < 0.05 and (weight + 0.1).abs().max() < 0.1
with optimizer.denoised():
    assert torch.allclose(weight, torch.tensor(-0.1))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package without native kernels and the headers of the noise, with the page's changes."""
    root = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "_build_facts.json", "experiments")
    shutil.copytree(ROOT / "nvrm_fast", root / "nvrm_fast", ignore=ignore)
    shutil.copytree(ROOT / "csrc/math", root / "csrc/math")
    for step in STEPS:
        apply(step, root)
    return root


@pytest.fixture(scope="module")
def law(copy):
    """The function of the changed reference, beside the unchanged package, whose table does not name it."""
    source = (copy / REFERENCE).read_text()
    source = source.replace("from .special_functions", "from nvrm_fast.reference.special_functions")
    source = source.replace("from ..contract.distributions import register_distribution\n", "")
    names = {"__name__": "changed", "register_distribution": lambda name, code: None}
    exec(compile(source, REFERENCE, "exec"), names)
    return names["triangular"]


def test_the_page_has_all_steps():
    assert [step.file for step in STEPS] == [file for file, count in FILES.items() for _ in range(count)]


def test_law(law):
    """All 2^16 halves: symmetric, inside (-1, 1), each value's distribution function on the line to 2^-15."""
    half = torch.arange(2**16)
    high, low = law(half << 16)[0], law(half)[1]
    assert torch.equal(high, low)
    x = high.sort().values.double()
    assert torch.equal(x, -x.flip(0)) and x.abs().max() < 1
    expected = torch.where(x < 0, (1 + x).square() / 2, 1 - (1 - x).square() / 2)
    found = (torch.arange(2**16) + 0.5) / 2**16
    assert (expected - found).abs().max() < 2**-15
    assert abs(x.square().mean() - 1 / 6) < 1e-4


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
def test_cpp_is_the_reference(copy, law, tmp_path):
    (tmp_path / "law.cpp").write_text(PROGRAM)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-I", copy / "csrc/math"]
    subprocess.run([COMPILER, *flags, tmp_path / "law.cpp", "-o", tmp_path / "law"], check=True)
    printed = subprocess.run([tmp_path / "law"], check=True, capture_output=True).stdout
    table = torch.frombuffer(bytearray(printed), dtype=torch.int32).view(-1, 3)
    words = table[:, 0].long() & 0xFFFFFFFF
    for k, values in enumerate(law(words)):
        assert torch.equal(values, table[:, 1 + k].contiguous().view(torch.float32))


def test_triton_and_an_optimizer(copy):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(copy)}
    process = subprocess.run(
        [sys.executable, "-c", BY_TRITON], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
