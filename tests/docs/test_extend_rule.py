"""docs/extend_rule.md: the class runs, works as every neural variable optimizer, and its C++ twin has its bits."""

import copy
import os
import shutil
import subprocess

import pytest
import torch
from pages import ROOT, blocks, page, run

from nvrm_fast.optim import VariabilityScheduler

PAGE = "docs/extend_rule.md"
COMPILER = os.environ.get("CXX", "c++").split()[0]

PROGRAM = """
#include <cstdio>
#include "update_rule.h"
namespace nvrm {
%s
}
int main() {
  float element[3];
  const nvrm::AdagradHyper<float> hyper{0.1f, 1e-10f, 1e-3f};
  while (std::fread(element, 4, 3, stdin) == 3) {
    nvrm::Adagrad::update<nvrm::ScalarLanes>(element[0], element[1], element + 2, hyper, false, 0.0f, 0.0f);
    std::fwrite(element, 4, 3, stdout);
  }
}
"""


@pytest.fixture(scope="module")
def names():
    torch.manual_seed(0)
    return run(PAGE)


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
def test_cpp_is_the_python_rule(names, tmp_path):
    (struct,) = blocks(page(PAGE), "cpp")
    (tmp_path / "rule.cpp").write_text(PROGRAM % struct)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc/math"]
    subprocess.run([COMPILER, *flags, tmp_path / "rule.cpp", "-o", tmp_path / "rule"], check=True)
    elements = torch.randn(4096, 3)
    elements[:, 2].abs_()
    given = elements.numpy().tobytes()
    printed = subprocess.run([tmp_path / "rule"], input=given, check=True, capture_output=True).stdout
    found = torch.frombuffer(bytearray(printed), dtype=torch.float32).view(-1, 3)
    rounded = {k: float(torch.tensor(v)) for k, v in dict(lr=0.1, eps=1e-10, weight_decay=1e-3).items()}
    # float64 and back: the square root of float32 numbers is then rounded once, as the hardware's.
    x, g, total = elements.unbind(1)
    g = g + rounded["weight_decay"] * x
    total = total + g * g
    expected = x - rounded["lr"] * (g / (total.double().sqrt().float() + rounded["eps"]))
    assert torch.equal(found[:, 0], expected) and torch.equal(found[:, 2], total)
    theirs, their_total = names["adagrad"](*elements.unbind(1), **rounded)
    assert torch.equal(their_total, total)
    torch.testing.assert_close(theirs, expected, rtol=0, atol=2**-22)  # torch's vectorised square root


def test_the_class_is_a_neural_variable_optimizer(names):
    """Schedules, 16 bits, copies and resumes: what the base class brings works with a rule of one's own."""
    make = names["NVRMAdagrad"]
    params = [torch.nn.Parameter(torch.randn(70, 3)), torch.nn.Parameter(torch.randn(5).bfloat16())]
    optimizer = make(params, lr=0.1, variability=0.05)
    scheduler = VariabilityScheduler(optimizer, lambda epoch: 0.5**epoch)

    def train(params, optimizer, steps):
        for k in range(steps):
            for param in params:
                param.grad = torch.full_like(param, 0.1 * (k + 1))
            optimizer.step()

    train(params, optimizer, 2)
    scheduler.step()
    train(params, optimizer, 2)
    twins, twin = copy.deepcopy((params, optimizer))
    state = copy.deepcopy(optimizer.state_dict())
    resumed_params = [torch.nn.Parameter(param.detach().clone()) for param in params]
    resumed = make(resumed_params, lr=0.1)
    resumed.load_state_dict(state)
    for other, o in ((params, optimizer), (twins, twin), (resumed_params, resumed)):
        with o.denoised():
            pass
        train(other, o, 2)
    for one, two, three in zip(params, twins, resumed_params):
        assert torch.equal(one, two) and torch.equal(one, three)
    with pytest.raises(ValueError, match="Invalid epsilon"):
        make(params, eps=-1.0)
