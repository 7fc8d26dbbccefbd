"""The layers' Triton kernels compile for GPUs without a GPU: no register spilled, no approximate function."""

import re
import subprocess

import pytest

triton = pytest.importorskip("triton")
if not hasattr(triton, "jit"):  # this very folder, as a namespace
    pytest.skip("Triton is not installed: pip install triton", allow_module_level=True)

from triton.backends import backends as compilers  # noqa: E402

from nvrm_fast.contract import laws  # noqa: E402
from nvrm_fast.triton import direction_noise as kernels  # noqa: E402

if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: there is no compiler in this process", allow_module_level=True)

POINTERS = {"s": "*bf16", "grad": "*bf16", "out": "*bf16", "key": "*i64"} | {
    name: "*fp32"
    for name in (
        "sq_norm", "tangent", "scale", "magnitude_mean", "magnitude_std", "bias", "constants", "scalars", "neuron_part",
        "sq_norm_part",
    )
}  # fmt: skip
INTEGERS = ("positions", "neurons", "inner", "groups", "group_blocks", "stream", "step", "offset")


@pytest.mark.skipif("nvidia" not in compilers, reason="this Triton has no NVIDIA compiler")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("law", (laws.NO_DIRECTION, *laws.LAWS))
def test_code(law, backward, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = kernels.direction_kernel
    types = POINTERS | {name: "i32" for name in INTEGERS}
    constants = dict(
        LAW=law, MAGNITUDE=laws.NORMAL, BOOST=False, TANGENT_GIVEN=False, FAN_IN=3, TANGENT_DIMENSION=3,
        BACKWARD=backward, SLOPES=backward, BY_NEURON=True, TILE_P=kernels.TILE_POSITIONS, TILE_N=kernels.TILE_NEURONS,
        STEPS=kernels._steps(backward),
    )  # fmt: skip
    assert {*types, *constants} == {*kernel.arg_names}
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in POINTERS},
    )
    options = dict(num_warps=kernels.WARPS, num_stages=1, enable_fp_fusion=False)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    assert "fma.rn.f32" in ptx
    assert not re.search(r"(ex2|lg2|sin|cos|sqrt|rsqrt|rcp)\.approx|div\.(approx|full)", ptx)
    (tmp_path / "kernel.ptx").write_text(ptx)
    command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", tmp_path / "kernel.ptx", "-o", tmp_path / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores" in report, report
