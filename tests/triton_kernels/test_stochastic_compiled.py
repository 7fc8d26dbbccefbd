"""The Triton kernel of stochastic activations compiles for GPUs without a GPU: no register spilled, no approximate
function."""

import re
import subprocess

import pytest

triton = pytest.importorskip("triton")

from triton.backends import backends as compilers  # noqa: E402

from nvrm_fast.triton import stochastic as kernels  # noqa: E402
from nvrm_fast.triton.tiles import run_width  # noqa: E402

if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: there is no compiler in this process", allow_module_level=True)

POINTERS = {"z": "*bf16", "grad": "*bf16", "weight": "*fp32", "out": "*bf16", "parts": "*fp32", "key": "*i64"}
NUMBERS = {name: "i32" for name in ("outer", "run", "inner", "stream", "step", "offset")} | {"margin": "fp32"}


@pytest.mark.skipif("nvidia" not in compilers, reason="this Triton has no NVIDIA compiler")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("sums", range(5))
def test_code(sums, backward, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = kernels.stochastic_kernel
    types = POINTERS | NUMBERS
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs=dict(
            ACTIVATION=1, SUMS=sums, BACKWARD=backward, TILE_R=kernels.TILE_ROWS, TILE_P=kernels.TILE_PLACES,
            STEPS=kernels.STEPS, WIDTH=run_width(60),
        ),
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(POINTERS))},
    )  # fmt: skip
    options = dict(num_warps=kernels.WARPS, num_stages=1, enable_fp_fusion=False)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    assert "fma.rn.f32" in ptx
    assert not re.search(r"(ex2|lg2|sin|cos|sqrt|rsqrt|rcp)\.approx|div\.(approx|full)", ptx)
    (tmp_path / "kernel.ptx").write_text(ptx)
    command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", tmp_path / "kernel.ptx", "-o", tmp_path / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores" in report, report
    # A thread's four numbers of two bytes are one access of eight, of mean and raw deviation each.
    assert len(re.findall(r"ld\.global\.v2\.b32", ptx)) == 2 + backward
    assert len(re.findall(r"st\.global\.v2\.b32", ptx)) == 1 + backward
    assert not re.search(r"(ld|st)\.global\.b16", ptx)
