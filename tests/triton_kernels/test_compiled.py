"""The Triton kernels compile for GPUs without a GPU, form no fused multiply-add of their own and spill no register."""

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

from nvrm_fast.contract import rules  # noqa: E402
from nvrm_fast.contract.measures import ABSMAX, RMS  # noqa: E402
from nvrm_fast.triton import kernels, layout, table  # noqa: E402

if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: there is no compiler in this process", allow_module_level=True)

needs_nvidia = pytest.mark.skipif("nvidia" not in compilers, reason="this Triton has no NVIDIA compiler")
ARCHITECTURES = (80, 90, 100)
OPTIONS = dict(
    DTYPE=tl.float32, MATH=tl.float32, WITH_MASTERS=False, KEEP_NOISE=False, DISTRIBUTION=0, SCALED=False,
    WITH_MEASURES=False, MEASURE=0, ONE_DRAW=False,
)  # fmt: skip


def step(rule, **changes):
    return dict(OPTIONS, RULE=rule.code, STATES=len(rule.states)) | changes


NO_RULE = dict(OPTIONS, RULE=kernels.NO_RULE.value, STATES=0)
DOUBLE = dict(DTYPE=tl.float64, MATH=tl.float64)
#: Kernel, what it is compiled for, fused multiply-adds, divisions and square roots of a thread, which has one block of
#: four words. A Gaussian word takes 15 fma (8 for the logarithm, 7 for sine and cosine) and a square root: 60 and 4 for
#: a block. A uniform word takes 2 (8 for a block), a Laplace word twice 7 (56), signs none. Which noise is taken off is
#: known only when the kernel runs, so that a kernel which does has all of them, 124. What is put on is compiled in,
#: except where the target's record says it.
CASES = {
    "noise gaussian": ("fill_noise", dict(DISTRIBUTION=0), 60, 0, 4),
    "noise uniform": ("fill_noise", dict(DISTRIBUTION=1), 8, 0, 0),
    "noise laplace": ("fill_noise", dict(DISTRIBUTION=2), 56, 0, 0),
    "noise rademacher": ("fill_noise", dict(DISTRIBUTION=3), 0, 0, 0),
    "sgd": ("step", step(rules.SGD), 124 + 60, 0, 8),
    "sgd uniform": ("step", step(rules.SGD, DISTRIBUTION=1), 124 + 8, 0, 4),
    "sgd momentum": ("step", step(rules.SGD_MOMENTUM), 124 + 60, 0, 8),
    "sgd bfloat16 masters": ("step", step(rules.SGD_MOMENTUM, DTYPE=tl.bfloat16, WITH_MASTERS=True), 60, 0, 4),
    "sgd float16 kept noise": ("step", step(rules.SGD_MOMENTUM, DTYPE=tl.float16, KEEP_NOISE=True), 60, 0, 4),
    "adam": ("step", step(rules.ADAM), 124 + 60, 8, 16),
    "adam amsgrad": ("step", step(rules.ADAM_AMSGRAD), 124 + 60, 8, 16),
    "adam float64": ("step", step(rules.ADAM, **DOUBLE), 124 + 60, 8, 16),
    "adam scaled": ("step", step(rules.ADAM, SCALED=True), 124 + 60, 16, 16),
    "lion": ("step", step(rules.LION), 124 + 60, 0, 8),
    "change of noise": ("step", NO_RULE, 2 * 124, 0, 8),
    "sgd in cycles": ("step", step(rules.SGD, ONE_DRAW=True), 124 + 60, 0, 8),
    "adam in cycles": ("step", step(rules.ADAM, ONE_DRAW=True), 124 + 60, 8, 16),
}


#: Bytes of stack that Triton 3.9's ptxas keeps. Since noise has turns it puts two registers of this one on the stack,
#: with 96 in use; what that costs is not known.
STACKS = {("sgd momentum", 100): 8}


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
    kernel, constants, fmas, divisions, roots = CASES[name]
    result = compiled(getattr(kernels, f"{kernel}_kernel"), constants, architecture)
    ptx = result.asm["ptx"]
    # Blackwell has instructions for two values at once.
    assert count("fma.rn.f32", ptx) + 2 * count("fma.rn.f32x2", ptx) == fmas
    assert count("fma.rn.f64", ptx) == 0
    if constants.get("MATH") != tl.float64:
        assert (count("div.rn.f32", ptx), count("sqrt.rn.f32", ptx)) == (divisions, roots)
        # Float64 is for the numbers that all elements share, before the loop over them.
        in_loop = ptx[ptx.index("fma.rn.f32" if fmas else "mul.rn.f32") :]
        assert not re.search(r"\b(add|sub|mul|div|sqrt|fma)\.\S*f64", in_loop)
    else:
        in_loop = ptx[ptx.index("fma.rn.f32") :]
        assert (count("div.rn.f32", ptx), count("sqrt.rn.f32", ptx)) == (0, 8)  # of the noise, which is float32
        assert (count("div.rn.f64", in_loop), 8 + count("sqrt.rn.f64", in_loop)) == (divisions, roots)
    # No approximation, no flush of subnormal numbers, and nothing that ptxas may contract: every operation says .rn.
    assert not re.search(r"\.(approx|ftz|full)\b", ptx)
    assert not re.search(r"\b(add|sub|mul|fma)\.f(32|64)(x2)?\b", ptx)
    if constants.get("DTYPE") == tl.bfloat16:
        assert count("cvt.rn.bf16.f32", ptx) == 8
    # A block is drawn once for its eight elements, whose registers are those of their thread. Eight bytes serve the
    # count of programs, which one thread reads for all. In cycles Triton hands the noise from thread to thread, a tile
    # of it at the most, because what is made once is used in two places.
    if constants.get("ONE_DRAW"):
        assert result.metadata.shared <= 4 * layout.TILE_ELEMENTS.value
    else:
        assert result.metadata.shared == (8 if kernel == "step" else 0)
    code = tmp_path / "kernel.cubin"
    code.write_bytes(result.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run([tool, "--dump-resource-usage", str(code)], capture_output=True, text=True, check=True)
    stack = STACKS.get((name, architecture), 0)
    assert re.search(rf"STACK:{stack}\b.*LOCAL:0\b", usage.stdout), usage.stdout


RELATIVE = dict(WITH_MEASURES=True, MEASURE=RMS)
MEASURING = dict(DTYPE=tl.float32, MATH=tl.float32, WITH_MASTERS=False, MEASURE=RMS, ONLY_CLEAN=False)
#: Kernels of relative noise, what they are compiled for, and fused multiply-adds of a thread as above.
RELATIVE_CASES = {
    "sgd": ("step", step(rules.SGD, **RELATIVE), 124 + 60),
    "adam absmax": ("step", step(rules.ADAM, **(RELATIVE | dict(MEASURE=ABSMAX))), 124 + 60),
    "sgd bfloat16 masters": (
        "step", step(rules.SGD_MOMENTUM, DTYPE=tl.bfloat16, WITH_MASTERS=True, **RELATIVE), 60,
    ),
    "change of noise": ("step", NO_RULE | dict(WITH_MEASURES=True), 2 * 124),
    "measure rms": ("measure", MEASURING, 124),
    "measure absmax float64": ("measure", MEASURING | DOUBLE | dict(MEASURE=ABSMAX, ONLY_CLEAN=True), 124),
}  # fmt: skip


@needs_nvidia
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", RELATIVE_CASES)
def test_kernels_of_relative_noise(name, architecture):
    """The arithmetic of the contract: nothing approximate, nothing contracted, one draw for a block."""
    kernel, constants, fmas = RELATIVE_CASES[name]
    ptx = compiled(getattr(kernels, f"{kernel}_kernel"), constants, architecture).asm["ptx"]
    assert count("fma.rn.f32", ptx) + 2 * count("fma.rn.f32x2", ptx) == fmas
    assert count("fma.rn.f64", ptx) == 0
    assert not re.search(r"\.(approx|ftz|full)\b", ptx)
    assert not re.search(r"\b(add|sub|mul|fma)\.f(32|64)(x2)?\b", ptx)


def test_nothing_that_changes_from_step_to_step_is_an_argument():
    """Everything but the table is compiled in, and the table holds what changes."""
    for kernel in (kernels.fill_noise_kernel, kernels.step_kernel, kernels.measure_kernel):
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
    columns = {"parameter": [1 << 40, 2 << 40, 3 << 40], "record": [7, 8, 9], "owner": [0, 1, 1]}
    header = table.Header(
        seed=-2, stream=3, step=41, scale=1e-60, denoise_every=5, pointers=(4 << 40, 5 << 40, 6 << 40), cycle=True,
        hyper=(0.1, 0.9),
    )  # fmt: skip
    numels, offsets = [5, 0, 40_000], [0, 9, 2**40 + 3]
    table.launch(recording(launches), torch.device("cpu"), header, columns, numels, offsets, RULE=1)
    ((grid, (words,), kwargs),) = launches
    assert kwargs["RULE"] == 1 and kwargs["enable_fp_fusion"] is False
    n, end = 3, layout.HEADER.value
    assert words[: layout.SCALE.value].tolist() == [3, -2, 3, 41]
    assert words[layout.SCALE.value].view(torch.float64).item() == 1e-60
    assert words[layout.DENOISE_EVERY.value] == 5
    at = layout.HYPER.value
    assert words[layout.HYPER_POINTER.value : at].tolist() == [4 << 40, 5 << 40, 6 << 40, 1]
    assert words[at:end].view(torch.float64).tolist() == [0.1, 0.9, *[0.0] * 6]
    cells = dict(zip(layout.COLUMNS, words[end : end + n * len(layout.COLUMNS)].view(-1, n).tolist()))
    for name, values in columns.items():
        assert cells.pop(name) == values
    assert cells.pop("numel") == numels
    assert cells.pop("offset") == offsets
    assert cells.pop("programs") == [1, 4, 0]  # the last line's three are counted by its owner
    assert all(values == [0, 0, 0] for values in cells.values())
    programs = words[end + n * len(layout.COLUMNS) :].view(2, -1)
    assert grid == (programs.shape[1],)
    assert programs[0].tolist() == [0, 1, 2, 2, 2]


def test_an_empty_tensor_has_one_program_which_counts_its_step():
    launches = []
    table.launch(recording(launches), torch.device("cpu"), table.Header(), {}, [0, 0], [0, 77])
    ((grid, _, _),) = launches
    assert grid == (2,)


def test_every_element_is_served_exactly_once():
    """What `program` and `tile` do, spelled out: each element is visited once, by its block and lane."""
    length, tile = layout.PROGRAM_SUPERBLOCKS.value, layout.TILE_SUPERBLOCKS.value
    numels, offsets = (0, 1, 16384, 16385, 16384, 40_000, 300), (5, 127, 0, 0, 1, 16_383, 2**36 - 77)
    words, counts = table.plan_programs(numels, offsets)
    programs = sum(counts)
    assert words.view(2, programs)[0].bincount(minlength=len(numels)).tolist() == counts
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
            constants = step(rules.ADAM)
            table.launch(recording(launches), torch.device("cpu"), header, {}, [100, 7], [0, 3], **constants)
            ((grid, _, kwargs),) = launches
            hits.append(kernel.warmup(MockTensor(torch.int64), grid=grid, **kwargs))
        assert all(hit is hits[0] for hit in hits)
        (device,) = kernel.device_caches
        assert len(kernel.device_caches[device][0]) == 1
    finally:
        driver._active = before
