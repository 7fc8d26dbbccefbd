"""docs/extend_rule.md, step by step, on a copy: reference, Triton and the CPU's own kernel leave the same bits."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pages import ROOT, apply, blocks, changes, page

PAGE = page("docs/extend_rule.md")
COMPILER = os.environ.get("CXX", "c++").split()[-1]
#: Steps by file, in the page's order.
FILES = {
    "nvrm_fast/contract/rules.py": 2,
    "nvrm_fast/reference/rule.py": 2,
    "nvrm_fast/optim/rules.py": 1,
    "nvrm_fast/triton/rule.py": 4,
}
(CLASS,) = (block for block in blocks(PAGE) if "class NVRMAdagrad" in block)

#: What the page's class does, without native kernels.
BY_BACKENDS = """
import copy
import torch
from nvrm_fast.optim import VariabilityScheduler


def run(make, dtype=torch.float32, steps=6):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(300).to(dtype)), torch.nn.Parameter(torch.randn(7, 3).to(dtype))]
    optimizer = make(params)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape).to(dtype)
        optimizer.step()
    return params, optimizer


options = dict(lr=0.1, weight_decay=1e-3)
plain, theirs = run(lambda params: torch.optim.Adagrad(params, **options))
for backend in ("reference", "triton"):
    quiet, _ = run(lambda params: NVRMAdagrad(params, variability=0, backend=backend, **options))
    for p, q in zip(plain, quiet):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)

for dtype, masters in ((torch.float32, False), (torch.float16, None), (torch.float64, True)):
    left = []
    for backend in ("reference", "triton"):
        params, optimizer = run(
            lambda params: NVRMAdagrad(
                params, variability=0.05, master_weights=masters, backend=backend, seed=0, **options
            ),
            dtype,
        )
        left.append([*params, *(state["sum"] for state in optimizer.state.values())])
    assert all(torch.equal(a, b) for a, b in zip(*left)), dtype

# Schedules, copies, checkpoints of torch's class.
params, optimizer = run(lambda params: NVRMAdagrad(params, variability=0.05, backend="reference", **options))
VariabilityScheduler(optimizer, lambda epoch: 0.5).step()
twins, twin = copy.deepcopy((params, optimizer))
for own, o in ((params, optimizer), (twins, twin)):
    for p in own:
        p.grad = torch.ones_like(p)
    o.step()
assert all(torch.equal(p, q) for p, q in zip(params, twins))
ours = NVRMAdagrad(plain, variability=0.05, backend="reference")
ours.load_state_dict(theirs.state_dict())
for p in plain:
    p.grad = torch.ones_like(p)
ours.step()
assert all(int(state["step"]) == 7 for state in ours.state.values())
try:
    NVRMAdagrad(plain, eps=-1.0)
except ValueError as error:
    assert "Invalid epsilon" in str(error)
else:
    raise AssertionError("a negative epsilon was taken")
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package without native kernels, with the page's changes."""
    root = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "_build_facts.json", "experiments")
    shutil.copytree(ROOT / "nvrm_fast", root / "nvrm_fast", ignore=ignore)
    for step in changes(PAGE):
        apply(step, root)
    return root


def test_the_page_has_all_steps():
    assert [step.file for step in changes(PAGE)] == [file for file, n in FILES.items() for _ in range(n)]


def test_reference_and_triton(copy):
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", CLASS + BY_BACKENDS],
        env={**os.environ, "PYTHONPATH": str(copy), "TRITON_INTERPRET": "1"},
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
def test_cpp_in_the_real_kernel(copy, tmp_path):
    """The page's struct, compiled into the CPU's step kernel, against the page's reference."""
    (rule,) = blocks(PAGE, "cpp")
    (tmp_path / "rule.h").write_text(rule)
    elements = 1000
    program = [
        COMPILER, "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-I", ROOT / "csrc",
        "-I", ROOT / "csrc/math", "-I", ROOT / "csrc/cpu",
        f'-DRULE_FILE="{tmp_path / "rule.h"}"', "-DRULE=Adagrad", f"-DELEMENTS={elements}",
        Path(__file__).with_name("rule_program.cpp"), "-o", tmp_path / "program",
    ]  # fmt: skip
    subprocess.run(program, check=True)
    x, g, total = torch.randn(3, elements).unbind()
    total = total.abs()
    hyper = dict(lr=0.1, eps=1e-10, weight_decay=1e-3)
    given = struct.pack("3d", *hyper.values()) + b"".join(v.numpy().tobytes() for v in (x, g, total))
    printed = subprocess.run([tmp_path / "program"], input=given, check=True, capture_output=True).stdout
    found = torch.frombuffer(bytearray(printed), dtype=torch.float32).view(2, elements)
    source = (copy / "nvrm_fast/reference/rule.py").read_text()
    names = {"__name__": "changed"}
    body = source[source.index("def adagrad(") : source.index("#: The function of each rule")]
    imports = (
        "from __future__ import annotations\nfrom nvrm_fast.reference.special_functions import rounded, square_root\n"
    )
    exec(imports + body, names)
    expected = names["adagrad"](x, g, total, is_first=True, step=1, **hyper)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
