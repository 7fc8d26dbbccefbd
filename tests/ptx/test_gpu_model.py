"""What the cost model of the CUDA steps says, and that docs/gpus.md tells it (`pytest -s` prints it)."""

import re
from pathlib import Path

import gpu_model
import pytest
from every_kernel import EVERY_KERNEL
from ptx.machine import Program
from ptx.source import kernels_of

PAGE = Path(__file__).parents[2] / "docs/gpus.md"


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    if missing := gpu_model.missing():
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    kinds, rules = (gpu_model.KINDS, gpu_model.RULES) if EVERY_KERNEL else (("float32",), (1, 2))
    return {case.title: case for case in gpu_model.measured(tmp_path_factory.mktemp("model"), kinds, rules)}


def test_the_page_tells_what_the_model_says(cases):
    page = PAGE.read_text().split(gpu_model.BEGIN)[1].split(gpu_model.END)[0]
    print("\n" + gpu_model.table(list(cases.values())))
    if gpu_model.compiler() not in page:
        pytest.skip("the page was written with another compiler")
    for case in cases.values():
        assert gpu_model.row(case) in page, "make gpu-model writes the page"


def test_steps_are_bound_by_memory_with_room(cases):
    """Each pipe is idle a third of the time at least, in place with independent draws and on the GPU whose memory is
    fastest: waiting is not in the model."""
    for rule in ("SGD, momentum", "Adam"):
        needed = cases[f"float32, {rule}"].picoseconds("H200")
        bandwidth = needed.pop("bandwidth")
        assert bandwidth > 1.3 * max(needed.values())


@pytest.mark.parametrize("rule", ["SGD, momentum", "Adam"])
@pytest.mark.parametrize("gpu", gpu_model.GPUS)
def test_channels_last_costs_at_most_three_tenths_more(cases, rule, gpu):
    def bound(order):
        return max(cases[f"float32, {rule}{order}"].picoseconds(gpu).values())

    for order in ("channels_last", "channels_last, gradient contiguous", "contiguous, not aligned"):
        assert bound(f", {order}, independent") <= 1.3 * bound("")


LISTING = """
.text.some_kernel:
	//## File ".nv_debug_ptx_txt", line 7
        /*0000*/                   FADD R0, R0, R1 ;
	//## File ".nv_debug_ptx_txt", line 6
        /*0010*/              @!P0 IMAD.WIDE.U32 R2, R0, 0x4, R2 ;
	//## File ".nv_debug_ptx_txt", line 7
        /*0020*/               @P0 BRA `(.L_x_1) ;
	//## File ".nv_debug_ptx_txt", line 10
        /*0030*/                   MUFU.RCP R0, R0 ;
        /*0040*/                   LDG.E R0, desc[UR8][R2.64] ;
        /*0050*/              @!P0 BRA `(.L_x_1) ;
        /*0060*/                   MOV R2, R59 ;
        /*0070*/                   CALL.REL.NOINC `($__internal_1_$__cuda_sm3x_div_rn_noftz_f32_slowpath) ;
        /*0080*/                   MOV R59, R2 ;
.L_x_1:
	//## File ".nv_debug_ptx_txt", line 12
        /*0090*/                   EXIT ;
$__internal_0_$__cuda_sm20_div_s64:
        /*00a0*/                   DADD R0, R0, R1 ;
.L_x_2:
        /*00b0*/                   RET ;
"""


def test_machine_code_is_counted_by_the_lines_of_ptx_it_is_for():
    text = ".entry some_kernel(\n\t.param .u64 p\n)\n.maxntid 128\n{\n\tmov.u32 \t%r1, %tid.x;\n"
    text += (
        "\tsetp.eq.s32 \t%p1, %r1, 0;\n\t@%p1 bra \t$L1;\n\tmov.u32 \t%r2, 1;\n\tmov.u32 \t%r3, 2;\n$L1:\n\tret;\n}\n"
    )
    program = Program(kernels_of(text)["some_kernel"])
    assert [[each.line for each in block.instructions] for block in program.kernel.blocks] == [[6, 7, 8], [9, 10], [12]]
    program.launch(2, 64, bytes(8), {})
    assert program.warps == {0: 4, 1: 4, 2: 4}
    program.warps[1] = 2
    counted = gpu_model.instructions(LISTING, program)
    # Three blocks, of three, three and one instructions; the slow way of a division and subroutines are left out.
    assert counted == {"issue": 4 * 3 + 2 * 3 + 4, "float": 4, "integer": 4, "special": 2, "float64": 0, "memory": 2}


def test_warps_are_those_that_registers_leave():
    case = gpu_model.Case("", {}, {"90": 80}, 0)
    assert case.warps("90") == 24 and gpu_model.Case("", {}, {"90": 33}, 0).warps("90") == 48


def test_bytes_of_a_step():
    """float32 Adam reads four numbers and writes three; bfloat16 SGD with masters reads 2 + 4, writes 4 + 2."""
    assert gpu_model.bytes_of("float32", 2, False) == 28 and gpu_model.bytes_of("bfloat16", 0, True) == 12


def test_the_marks_are_on_the_page_once():
    assert len(re.findall(f"{gpu_model.BEGIN}.*{gpu_model.END}", PAGE.read_text(), re.DOTALL)) == 1
