"""The Triton kernels compile for GPUs without a GPU, form no fused multiply-add of their own and keep to registers."""

import itertools
import re
import subprocess

import pytest

triton = pytest.importorskip("triton")
if not hasattr(triton, "jit"):  # this very folder, as a namespace
    pytest.skip("Triton is not installed: pip install triton", allow_module_level=True)

import torch  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.backends import backends as compilers  # noqa: E402

kernels = pytest.importorskip("nvrm_fast.triton.kernels")
table = pytest.importorskip("nvrm_fast.triton.table")
layout = pytest.importorskip("nvrm_fast.triton.layout")
rules = pytest.importorskip("nvrm_fast.contract.rules")

if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: there is no compiler in this process", allow_module_level=True)

needs_nvidia = pytest.mark.skipif("nvidia" not in compilers, reason="this Triton has no NVIDIA compiler")
ARCHITECTURES = (80, 90, 100)
OPTIONS = dict(
    DTYPE=tl.float32, MATH=tl.float32, WITH_MASTERS=False, KEEP_NOISE=False, DISTRIBUTION=0, SCALED=False,
)  # fmt: skip


def step(rule, **changed):
    return "step", dict(OPTIONS, RULE=rule.code, STATES=len(rule.states), **changed)


def changed(case, **options):
    return case[0], dict(case[1], **options)


SGD, ADAM = step(rules.SGD_MOMENTUM), step(rules.ADAM)
DOUBLE = dict(DTYPE=tl.float64, MATH=tl.float64)
#: Fused multiply-adds of a thread, which draws one block: a Gaussian word takes 15 (9 for the logarithm, 3 each for
#: sine and cosine), a uniform word 2, a Laplace word twice 7, and a block has four words. Which noise is taken off is
#: said by the record, so that the code has all three.
GAUSSIAN, UNIFORM, LAPLACE = 60, 8, 56
ANY = GAUSSIAN + UNIFORM + LAPLACE
#: Kernel, what it is compiled for; fused multiply-adds; divisions and square roots in the type in which the rule
#: computes; square roots of the draws, in float32. An Adam step has 3 divisions and a square root in float64 besides,
#: for its hyper-parameters, once a program.
CASES = {
    "noise gaussian": ("fill_noise", dict(DISTRIBUTION=0), GAUSSIAN, 0, 0, 4),
    "noise uniform": ("fill_noise", dict(DISTRIBUTION=1), UNIFORM, 0, 0, 0),
    "noise laplace": ("fill_noise", dict(DISTRIBUTION=2), LAPLACE, 0, 0, 0),
    "sgd": (*step(rules.SGD), GAUSSIAN + ANY, 0, 0, 8),
    "sgd momentum": (*SGD, GAUSSIAN + ANY, 0, 0, 8),
    "sgd uniform": (*changed(SGD, DISTRIBUTION=1), UNIFORM + ANY, 0, 0, 4),
    "sgd bfloat16 masters": (*changed(SGD, DTYPE=tl.bfloat16, WITH_MASTERS=True), GAUSSIAN, 0, 0, 4),
    "sgd float16 kept noise": (*changed(SGD, DTYPE=tl.float16, KEEP_NOISE=True), GAUSSIAN, 0, 0, 4),
    "adam": (*ADAM, GAUSSIAN + ANY, 8, 8, 8),
    "adam amsgrad": (*step(rules.ADAM_AMSGRAD), GAUSSIAN + ANY, 8, 8, 8),
    "adam float64": (*changed(ADAM, **DOUBLE), GAUSSIAN + ANY, 8, 8, 8),
    "adam scaled": (*changed(ADAM, SCALED=True), GAUSSIAN + ANY, 16, 8, 8),
    "lion": (*step(rules.LION), GAUSSIAN + ANY, 0, 0, 8),
    "reperturb": ("step", dict(OPTIONS, RULE=kernels.NO_RULE.value, STATES=0), 2 * ANY, 0, 0, 8),
}


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel, constants, architecture):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=kernel,
        signature={name: "*i64" if name == "table" else "constexpr" for name in kernel.arg_names},
        constexprs=constants,
        attrs={(0,): [["tt.divisibility", 16]]},
    )
    options = dict(num_warps=layout.WARPS, num_stages=1, enable_fp_fusion=False)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def count(instruction, ptx):
    return len(re.findall(rf"^\s+(?:@!?%\w+ )?{re.escape(instruction)}\b", ptx, re.M))


@needs_nvidia
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", CASES)
def test_code_has_the_arithmetic_of_the_contract(name, architecture, tmp_path):
    kernel, constants, fmas, divisions, roots, roots_of_draws = CASES[name]
    result = compiled(getattr(kernels, f"{kernel}_kernel"), constants, architecture)
    ptx = result.asm["ptx"]
    is_double, is_adam = constants.get("MATH") == tl.float64, name.startswith("adam")
    # Blackwell has instructions for two values at once.
    assert count("fma.rn.f32", ptx) + 2 * count("fma.rn.f32x2", ptx) == fmas
    assert count("fma.rn.f64", ptx) == 0
    assert count("div.rn.f32", ptx) == (0 if is_double else divisions)
    assert count("div.rn.f64", ptx) == (divisions if is_double else 0) + 3 * is_adam
    assert count("sqrt.rn.f32", ptx) == roots_of_draws + (0 if is_double else roots)
    assert count("sqrt.rn.f64", ptx) == (roots if is_double else 0) + is_adam
    # No approximation, no flush of subnormal numbers, and nothing that ptxas may contract: every operation says .rn.
    assert not re.search(r"\.(approx|ftz|full)\b", ptx)
    assert not re.search(r"\b(add|sub|mul|fma)\.f(32|64)(x2)?\b", ptx)
    if constants.get("DTYPE") == tl.bfloat16:
        assert count("cvt.rn.bf16.f32", ptx) == 8
    # A block is drawn once for its eight elements, whose registers are those of their thread; the step alone shares
    # one number, which says whether this program is its parameter's last.
    assert result.metadata.shared == (8 if kernel == "step" else 0)
    code = tmp_path / "kernel.cubin"
    code.write_bytes(result.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run([tool, "--dump-resource-usage", str(code)], capture_output=True, text=True, check=True)
    # For sm_90 ptxas sets 8 bytes of two Adam steps aside before the loop and reads them once after it.
    stack = "[08]" if architecture == 90 and name in ("adam float64", "adam scaled") else "0"
    assert re.search(rf"STACK:{stack}\b.*LOCAL:0\b", usage.stdout), usage.stdout


def test_nothing_that_changes_from_step_to_step_is_an_argument():
    """Everything but the table is compiled in, and the table holds what changes."""
    for kernel in (kernels.fill_noise_kernel, kernels.step_kernel):
        assert [p.name for p in kernel.params if not p.is_constexpr] == ["table"]
    constants = {p.name for p in kernels.step_kernel.params if p.is_constexpr}
    assert constants == {"RULE", "STATES", *OPTIONS}


def recording(launches):
    """Stands for a kernel and notes what it is launched with."""

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: launches.append((grid, args, kwargs))

    return Kernel()


def test_a_whole_list_is_one_launch_with_everything_in_its_place():
    launches = []
    columns = {"parameter": [1 << 40, 2 << 40, 3 << 40], "record": [7, 8, 9], "owner": [0, 1, 2]}
    header = table.Header(-2, 3, 4, 0.5, 6, (4 << 40, 5 << 40, 6 << 40), (0.1, 0.9))
    table.launch(
        recording(launches), torch.device("cpu"), header, columns, [5, 0, 40_000], [0, 9, 2**40 + 3], RULE=1
    )  # fmt: skip
    ((grid, (words,), kwargs),) = launches
    assert kwargs["RULE"] == 1 and kwargs["enable_fp_fusion"] is False
    start, n = layout.HEADER.value, 3
    assert words[: layout.SCALE.value].tolist() == [3, -2, 3, 4]
    assert words[layout.SCALE.value].view(torch.float64) == 0.5
    assert words[layout.DENOISE_EVERY.value : layout.HYPER.value].tolist() == [6, 4 << 40, 5 << 40, 6 << 40]
    assert words[layout.HYPER.value : start].view(torch.float64).tolist() == [0.1, 0.9, *[0.0] * 6]
    cells = words[start : start + n * len(layout.COLUMNS)].view(-1, n)
    assert cells[layout.PARAMETER.value].tolist() == columns["parameter"]
    assert cells[layout.RECORD.value].tolist() == [7, 8, 9]
    assert cells[layout.NUMEL.value].tolist() == [5, 0, 40_000]
    assert cells[layout.OFFSET.value].tolist() == [0, 9, 2**40 + 3]
    # An empty tensor has a program too, which counts its step.
    assert cells[layout.PROGRAMS.value].tolist() == [1, 1, 3]
    assert (cells[layout.MASTER.value] == 0).all() and (cells[layout.FINISHED.value] == 0).all()
    programs = words[start + n * len(layout.COLUMNS) :].view(2, -1)
    assert grid == (programs.shape[1],)
    assert programs[0].tolist() == [0, 1, 2, 2, 2]


def test_empty_lists_launch_nothing():
    launches = []
    table.launch(recording(launches), torch.device("cpu"), table.Header(), {}, [], [])
    assert launches == []


def test_every_element_is_served_exactly_once():
    """What `program` and `tile` do, spelled out: each element is visited once, by its block and lane."""
    length, tile = layout.PROGRAM_SUPERBLOCKS.value, layout.TILE_SUPERBLOCKS.value
    numels, offsets = (0, 1, 16384, 16385, 16384, 40_000, 300), (5, 127, 0, 0, 1, 16_383, 2**36 - 77)
    words, counts = table.plan_programs(numels, offsets)
    programs = sum(counts)
    visits = [torch.zeros(numel, dtype=torch.int64) for numel in numels]
    for tensor, first in words.view(2, programs).t().tolist():
        numel, offset = numels[tensor], offsets[tensor]
        last = min(-(-(offset + numel) // 128), first + length)
        for superblock in range(first, last, tile):
            row, lane = torch.arange(16 * tile)[:, None], torch.arange(8)[None, :]
            place = row // 16 * 128 + row % 16 + 16 * lane
            start = superblock * 128 - offset
            mask = (place >= max(-start, 0)) & (place < min(numel - start, 128 * tile))
            local, block = (start + place)[mask], (superblock * 16 + row).expand_as(place)[mask]
            element = local + offset
            assert torch.equal(block, element // 128 * 16 + element % 16)
            assert torch.equal(lane.expand_as(place)[mask], element % 128 // 16)
            visits[tensor][local] += 1
    assert all((v == 1).all() for v in visits)
    # A program's stretch never reaches into the next one's: a tile divides it.
    assert length % tile == 0


@needs_nvidia
def test_steps_do_not_compile_again(monkeypatch):
    """The real launch path, up to the launch itself, with everything changed that changes from step to step."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import MockTensor

    class Driver:
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))

    driver = triton.runtime.driver
    before = driver._active
    driver._active = Driver()
    try:
        hits = []
        kernel = triton.jit(kernels.step_kernel.fn)
        for lr, seed, scale in itertools.product((0.1, 1e-3), (0, -1), (0.0, 0.5)):
            launches = []
            header = table.Header(seed=seed, scale=scale, hyper=(lr,))
            table.launch(recording(launches), torch.device("cpu"), header, {}, [100, 7], [0, 3], **ADAM[1])
            ((grid, _, kwargs),) = launches
            hits.append(kernel.warmup(MockTensor(torch.int64), grid=grid, **kwargs))
        assert all(hit is hits[0] for hit in hits)
        (device,) = kernel.device_caches
        assert len(kernel.device_caches[device][0]) == 1
    finally:
        driver._active = before
