"""The layers' Triton kernels compile for GPUs without a GPU: wide accesses, no approximate function, and at most four
registers spilled, by which ptxas has four programs on a multiprocessor and not three."""

import re
import subprocess

import pytest

triton = pytest.importorskip("triton")

from triton.backends import backends as compilers  # noqa: E402

from nvrm_fast.contract.laws import LAWS, NO_DIRECTION  # noqa: E402
from nvrm_fast.triton import direction_noise as kernels  # noqa: E402
from nvrm_fast.triton import tiles  # noqa: E402

if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: there is no compiler in this process", allow_module_level=True)

POINTERS = (
    "sq_norm", "tangent", "scale", "magnitude_mean", "magnitude_std", "bias", "constants", "scalars", "neuron_part",
    "sq_norm_part",
)  # fmt: skip
INTEGERS = ("outers", "neurons", "inner", "groups", "group_blocks", "stream", "step", "offset")


@pytest.mark.skipif("nvidia" not in compilers, reason="this Triton has no NVIDIA compiler")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("by_neuron", [True, False], ids=["dense", "convolution"])
@pytest.mark.parametrize("law", [NO_DIRECTION, *LAWS])
def test_code(law, by_neuron, backward, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = kernels.direction_kernel
    types = {name: "*fp32" for name in POINTERS} | {name: "i32" for name in INTEGERS}
    types |= {"s": "*bf16", "grad": "*bf16", "out": "*bf16", "key": "*i64"}
    constants = dict(
        LAW=law, MAGNITUDE=1, BOOST=False, TANGENT_GIVEN=False, FAN_IN=3, TANGENT_DIMENSION=3, BACKWARD=backward,
        SLOPES=backward, BY_NEURON=by_neuron, STEPS=kernels.STEPS if backward else tiles.FORWARD_STEPS,
        WIDTH=tiles.run_width(60), groups=1,
    )  # fmt: skip
    constants["TILE_P"], constants["TILE_N"] = (
        (kernels.TILE_POSITIONS, kernels.TILE_NEURONS) if by_neuron else (kernels.TILE_NEURONS, kernels.TILE_POSITIONS)
    )
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else types[name] for name in kernel.arg_names},
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(POINTERS) + 4)},
    )
    options = dict(num_warps=kernels.WARPS, num_stages=1, enable_fp_fusion=False)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    assert "fma.rn.f32" in ptx
    assert not re.search(r"(ex2|lg2|sin|cos|sqrt|rsqrt|rcp)\.approx|div\.(approx|full)", ptx)
    (tmp_path / "kernel.ptx").write_text(ptx)
    command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", tmp_path / "kernel.ptx", "-o", tmp_path / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert int(re.search(r"(\d+) bytes spill stores", report).group(1)) <= 16, report
    # A thread's four activations of two bytes are one access of eight; no bfloat16 comes by itself.
    assert len(re.findall(r"ld\.global\.v2\.b32", ptx)) == 1 + backward
    assert len(re.findall(r"st\.global\.v2\.b32", ptx)) == 1
    assert not re.search(r"(ld|st)\.global\.b16", ptx)
