"""The Triton kernels compile for GPUs without a GPU, form no fused multiply-add of their own and spill no register."""

import itertools
import re
import subprocess

import pytest

triton = pytest.importorskip("triton")

import torch  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.backends import backends as compilers  # noqa: E402

from nvrm_fast.contract import rules  # noqa: E402
from nvrm_fast.triton import kernels, layout, table  # noqa: E402

if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: there is no compiler in this process", allow_module_level=True)

needs_nvidia = pytest.mark.skipif("nvidia" not in compilers, reason="this Triton has no NVIDIA compiler")
ARCHITECTURES = (80, 90, 100)
OPTIONS = dict(
    DTYPE=tl.float32, MATH=tl.float32, WITH_MASTERS=False, KEEP_NOISE=False, DISTRIBUTION=0, SCALED=False,
)  # fmt: skip


def step_of(rule, **options):
    return "step", dict(OPTIONS, RULE=rule.code, STATES=len(rule.states)) | options


DOUBLE = dict(DTYPE=tl.float64, MATH=tl.float64)
ONE_LAW, ANY_LAW = 60, 60 + 8 + 56
#: Kernel, what it is compiled for, fused multiply-adds, divisions and square roots in the type in which the rule
#: computes, of a thread, which has one block; and divisions and square roots in float64 for the numbers of a step.
#: A Gaussian word takes 15 fma (9 for the logarithm, 3 each for sine and cosine) and a square root, and a block four of
#: them; a uniform word takes 2, a Laplace word twice 7. Where the record says which law to draw from, all three are
#: there. Adam's bias corrections take three divisions and a square root.
CASES = {
    "noise gaussian": ("fill_noise", dict(DISTRIBUTION=0), ONE_LAW, 0, 4, 0, 0),
    "noise uniform": ("fill_noise", dict(DISTRIBUTION=1), 8, 0, 0, 0, 0),
    "noise laplace": ("fill_noise", dict(DISTRIBUTION=2), 56, 0, 0, 0, 0),
    "sgd": (*step_of(rules.SGD), ANY_LAW + ONE_LAW, 0, 8, 0, 0),
    "momentum": (*step_of(rules.SGD_MOMENTUM), ANY_LAW + ONE_LAW, 0, 8, 0, 0),
    "momentum uniform": (*step_of(rules.SGD_MOMENTUM, DISTRIBUTION=1), ANY_LAW + 8, 0, 4, 0, 0),
    "momentum bfloat16 masters": (
        *step_of(rules.SGD_MOMENTUM, DTYPE=tl.bfloat16, WITH_MASTERS=True), ONE_LAW, 0, 4, 0, 0,
    ),
    "momentum float16 kept noise": (
        *step_of(rules.SGD_MOMENTUM, DTYPE=tl.float16, KEEP_NOISE=True), ONE_LAW, 0, 4, 0, 0,
    ),
    "adam": (*step_of(rules.ADAM), ANY_LAW + ONE_LAW, 8, 16, 3, 1),
    "amsgrad": (*step_of(rules.ADAM_AMSGRAD), ANY_LAW + ONE_LAW, 8, 16, 3, 1),
    "adam float64": (*step_of(rules.ADAM, **DOUBLE), ANY_LAW + ONE_LAW, 8, 16, 3, 1),
    "adam scaled": (*step_of(rules.ADAM, SCALED=True), ANY_LAW + ONE_LAW, 16, 16, 3, 1),
    "lion": (*step_of(rules.LION), ANY_LAW + ONE_LAW, 0, 8, 0, 0),
    "reperturb": ("step", dict(OPTIONS, RULE=kernels.NO_RULE.value, STATES=0), 2 * ANY_LAW, 0, 8, 0, 0),
}  # fmt: skip


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
    from triton.backends.nvidia.compiler import get_ptxas

    kernel, constants, fmas, divisions, roots, step_divisions, step_roots = CASES[name]
    result = compiled(getattr(kernels, f"{kernel}_kernel"), constants, architecture)
    ptx = result.asm["ptx"]
    # Blackwell has instructions for two values at once.
    assert count("fma.rn.f32", ptx) + 2 * count("fma.rn.f32x2", ptx) == fmas
    assert count("fma.rn.f64", ptx) == 0
    if constants.get("MATH") == tl.float64:
        drawn = 8  # the noise's own roots are of float32
        assert count("div.rn.f32", ptx) == 0 and count("sqrt.rn.f32", ptx) == drawn
        assert count("div.rn.f64", ptx) == divisions + step_divisions
        assert count("sqrt.rn.f64", ptx) == roots - drawn + step_roots
    else:
        assert count("div.rn.f32", ptx) == divisions and count("sqrt.rn.f32", ptx) == roots
        assert count("div.rn.f64", ptx) == step_divisions and count("sqrt.rn.f64", ptx) == step_roots
    # No approximation, no flush of subnormal numbers, and nothing that ptxas may contract: every operation says .rn.
    assert not re.search(r"\.(approx|ftz|full)\b", ptx)
    assert not re.search(r"\b(add|sub|mul|fma)\.f(32|64)(x2)?\b", ptx)
    if constants.get("DTYPE") == tl.bfloat16:
        assert count("cvt.rn.bf16.f32", ptx) == 8
    # A block is drawn once for its eight elements, whose registers are those of their thread: no shared memory but the
    # 8 bytes in which a step's programs count how many of them have finished.
    assert result.metadata.shared == (8 if kernel == "step" else 0)
    (tmp_path / "kernel.ptx").write_text(ptx)
    code = f"sm_{architecture}a" if architecture >= 90 else f"sm_{architecture}"
    command = [get_ptxas(architecture).path, "-v", f"--gpu-name={code}", "kernel.ptx", "-o", "kernel.cubin"]
    report = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    # (The stack that cuobjdump tells of has return addresses of float64 divisions, which are calls.)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert frames and all(set(frame) == {"0"} for frame in frames), report


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
    columns = {"parameter": [1 << 40, 2 << 40, 3 << 40], "record": [7, 8, 9], "scale": [11, 0, 12]}
    header = table.Header(
        seed=-2, stream=5, step=3, scale=1e-60, denoise_every=6, pointers=(4 << 40, 5 << 40, 6 << 40), hyper=(0.1, 0.9)
    )
    table.launch(recording(launches), torch.device("cpu"), header, columns, [5, 0, 40_000], [0, 9, 2**40 + 3], RULE=1)
    ((grid, (words,), kwargs),) = launches
    assert kwargs["RULE"] == 1 and kwargs["enable_fp_fusion"] is False
    header, n = layout.HEADER.value, 3
    assert words[: layout.SCALE.value].tolist() == [3, -2, 5, 3]
    assert words[layout.SCALE.value : layout.DENOISE_EVERY.value].view(torch.float64).tolist() == [1e-60]
    assert words[layout.DENOISE_EVERY.value : layout.HYPER.value].tolist() == [6, 4 << 40, 5 << 40, 6 << 40]
    assert words[layout.HYPER.value : header].view(torch.float64).tolist() == [0.1, 0.9, *[0.0] * 6]
    cells = words[header : header + n * len(layout.COLUMNS)].view(-1, n)
    assert cells[layout.PARAMETER.value].tolist() == columns["parameter"]
    assert cells[layout.RECORD.value].tolist() == [7, 8, 9]
    assert cells[layout.NUMEL.value].tolist() == [5, 0, 40_000]
    assert cells[layout.OFFSET.value].tolist() == [0, 9, 2**40 + 3]
    assert cells[layout.SCALE_POINTER.value].tolist() == [11, 0, 12]
    assert cells[layout.PROGRAMS.value].tolist() == [1, 1, 3]
    assert (cells[layout.MASTER.value] == 0).all()
    programs = words[header + n * len(layout.COLUMNS) :].view(2, -1)
    assert grid == (programs.shape[1],)
    assert programs[0].tolist() == [0, 1, 2, 2, 2]


def test_empty_lists_launch_nothing_and_empty_tensors_one_program_each():
    launches = []
    table.launch(recording(launches), torch.device("cpu"), table.Header(), {}, [], [])
    assert launches == []
    table.launch(recording(launches), torch.device("cpu"), table.Header(), {}, [0, 0], [0, 77])
    ((grid, _, _),) = launches
    assert grid == (2,)


def test_every_element_is_served_exactly_once():
    """What `program` and `tile` do, spelled out: each element is visited once, by its block and lane."""
    length, tile = layout.PROGRAM_SUPERBLOCKS.value, layout.TILE_SUPERBLOCKS.value
    numels, offsets = (0, 1, 16384, 16385, 16384, 40_000, 300), (5, 127, 0, 0, 1, 16_383, 2**36 - 77)
    words, counts = table.plan_programs(numels, offsets)
    visits = [torch.zeros(numel, dtype=torch.int64) for numel in numels]
    for tensor, first in words.view(2, sum(counts)).t().tolist():
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
            table.launch(
                recording(launches), torch.device("cpu"), table.Header(seed=seed, scale=scale, hyper=(lr,)), {},
                [100, 7], [0, 3], **step_of(rules.ADAM)[1],
            )  # fmt: skip
            ((grid, _, kwargs),) = launches
            hits.append(kernel.warmup(MockTensor(torch.int64), grid=grid, **kwargs))
        assert all(hit is hits[0] for hit in hits)
        (device,) = kernel.device_caches
        assert len(kernel.device_caches[device][0]) == 1
    finally:
        driver._active = before
