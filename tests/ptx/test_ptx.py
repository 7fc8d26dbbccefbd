"""The device code itself: nvcc's PTX of every kernel instance, run on small tensors without a GPU.

Host code makes the launches (recorded_launches.cpp), tests/helpers/ptx runs them, and all memory must be afterwards,
byte for byte, what the CPU's kernels make of it. Every access is checked: inside of an allocation, aligned, of bytes
that have a value, in no race; and every register has a value before it is read. `make cuda-check` prints which blocks
were executed.
"""

import functools
import re
from fractions import Fraction

import numpy as np
import pytest
from every_kernel import EVERY_KERNEL
from ptx import arithmetic, running
from ptx.machine import Program
from ptx.memory import Fault
from ptx.source import kernels_of

KINDS = ("float32", "float64", "bfloat16", "float16")
#: By their codes; of those below 0, that follow, the last one is -1.
RULES = ("Sgd<false>", "Sgd<true>", "Adam<false>", "Adam<true>", "Lion", "OnlyMeasure", "NoUpdate")
THREADS = {"step": 128, "noise": 128, "records": 124, "finish": 128}
#: Turns of options for each kind, with and without master weights; of parameters without and with measures.
TURNS = {"step": 3, "relative": 2}
#: What runs with measures, where not everything does: ../csrc/measure_emulation.cpp runs every instance's own code.
RELATIVE_KINDS = KINDS if EVERY_KERNEL else ("float32", "bfloat16")
RELATIVE_RULES = range(5) if EVERY_KERNEL else (1,)
#: Share of each kernel's blocks that is executed at least. Noise alone has the blocks of a step without a target, too,
#: up to a fifth of all its blocks.
EXECUTED = {"step": 0.9, "relative": 0.88}
NOISE_ALONE_EXECUTED = {"step": 0.88, "relative": 0.8}


@pytest.fixture(scope="module")
def programs(ptx):
    """Kernels of a source, made executable, by rule and master weights (one alone: by nothing)."""

    @functools.cache
    def made(source):
        found = {}
        for name, kernel in kernels_of(ptx(source)).items():
            match = re.search(
                r"step_kernelIN\d?\d?(?:S_|4nvrm)?\d*(Sgd|Adam|Lion|NoUpdate|OnlyMeasure)(?:ILb([01])E)?E.*?Lb([01])E",
                name,
            )
            if match is None:
                found[None] = Program(kernel)
                continue
            rule, option, master = match.groups()
            rule += {None: "", "0": "<false>", "1": "<true>"}[option]
            found[rule, master == "1"] = Program(kernel)
        return found

    return made


@pytest.fixture(scope="module")
def recorded(recording_of):
    """All cases."""
    return recording_of("recorded_launches", *TURNS.values(), "".join(map(str, RELATIVE_RULES)), *RELATIVE_KINDS)


def run(case, programs):
    """Run a case's launches one after the other; which of its allocations are not as the CPU leaves them."""

    def program_of(launch):
        if launch.kernel != "step":
            return programs(launch.kernel)[None]
        source = f"{'relative' if case.relative else 'step'}_{case.kind}"
        return programs(source)[RULES[case.rule], case.master]

    return running.different(case, program_of, lambda launch: THREADS[launch.kernel])


@pytest.mark.parametrize(
    "source, kind", [*(("step", kind) for kind in KINDS), *(("relative", kind) for kind in RELATIVE_KINDS)]
)
def test_steps_are_the_cpu_kernels_byte_for_byte(source, kind, recorded, programs):
    cases = [case for case in recorded if case.kind == kind and case.relative == (source == "relative")]
    for case in cases:
        assert run(case, programs) == [], case.name
    made = programs(f"{source}_{kind}")
    if source == "step":
        rules, more = (*range(5), -1), 1  # a turn of SGD
        assert len(made) == 2 * (len(RULES) - 1)
    else:
        rules, more = (*RELATIVE_RULES, -2, -1), len(RELATIVE_RULES)  # noise that stays
        assert len(made) == 2 * len(RULES)
    assert len(cases) == 2 * TURNS[source] * len(rules) + more
    own = {name: made[name] for rule in rules for name in ((RULES[rule], True), (RULES[rule], False))}
    for (rule, _), share in running.report(f"{source}, {kind}", own).items():
        assert share >= (NOISE_ALONE_EXECUTED if rule == "NoUpdate" else EXECUTED)[source]
    if source == "relative":
        assert min(running.report("finish", programs("finish")).values()) >= 0.9


def test_noise_is_the_cpu_kernels_byte_for_byte(recorded, programs, monkeypatch):
    """And does not depend on how far off the approximate reciprocal root is."""
    cases = [case for case in recorded if case.kind == ""]
    for error in (0, -2, 2):
        monkeypatch.setattr(arithmetic, "rsqrt_error", error)
        for case in cases:
            assert run(case, programs) == []
    (program,) = programs("noise").values()
    running.report("noise", programs("noise"))
    missed = [block for place, block in enumerate(program.kernel.blocks) if place not in program.covered]
    # A distribution that is none of the list draws nothing.
    assert all(len(block.instructions) <= 2 for block in missed) and len(missed) <= 1


def hard_quotients():
    """Pairs of 24-bit integers whose quotient lies within 2.5 / b units of 2^-25 of where float32 rounds up or down: as
    near as quotients come. And all numerators by the denominators that are known to be the hardest."""
    random = np.random.default_rng(0)
    pairs = []
    for b in (random.integers(1 << 23, 1 << 24, 3000) | 1).tolist():
        inverse = pow(b, -1, 1 << 25)
        for rest in (1, -1, 3, -3, 5, -5):
            odd = -rest * inverse % (1 << 25)
            a = (b * odd + rest) >> 25
            if odd % 2 and 1 << 22 <= a:
                pairs.append((a if a >= 1 << 23 else 2 * a, b))
    some = random.integers(1 << 23, 1 << 24, 1 << 14)
    for b in (1 << 23, (1 << 23) + 1, (1 << 24) - 2, (1 << 24) - 3):
        pairs += [(a, b) for a in some.tolist()]
    return np.array(pairs, np.float32).T


def run_arrays(ptx, name, *arrays):
    """A kernel of quotients.cu on arrays, whose lengths it may write; they are those of threads."""
    kernel = kernels_of(ptx("quotients"))[name]
    running.check_rounding(kernel)
    held = {(n + 1) << 24: array.view(np.uint8).copy() for n, array in enumerate(arrays)}
    threads = THREADS["step"]
    memory = Program(kernel).launch(len(arrays[0]) // threads, threads, np.array(list(held), np.uint64).tobytes(), held)
    return [memory.result(place).view(array.dtype) for place, array in zip(held, arrays)]


@pytest.fixture(params=[(0, 0), (1, 2), (-1, -2)], ids=str)
def approximations(request, monkeypatch):
    """How far off the reciprocal and the reciprocal root are that quick quotients and roots start from."""
    for name, error in zip(("rcp_error", "rsqrt_error"), request.param):
        monkeypatch.setattr(arithmetic, name, error)


def test_quick_roots_and_quotients_are_rounded_correctly(approximations, ptx):
    """To the ends of where Adam takes them: denominators from 2^-51 to 2^85, quotients from 2^-40 on."""
    a, b = (x[: len(x) // THREADS["step"] * THREADS["step"]] for x in hard_quotients())
    for scale_a, scale_b in ((0, 0), (-113, -74), (22, 61), (98, 61), (40, -74)):
        x, y = (np.ldexp(z, scale).astype(np.float32) for z, scale in ((a, scale_a), (b, scale_b)))
        *_, quotient, root = run_arrays(ptx, "quotients", x, y, np.zeros_like(x), np.zeros_like(x))
        assert np.abs(x / y).min() >= 2**-40 and np.array_equal(quotient, x / y)
        assert np.array_equal(root, np.sqrt(y))


@pytest.mark.parametrize(
    "eps, root_scale", [(1e-8, 1.0), (0.0, 31.6), (1e5, 1e6), (-1.0, 1.0), (1e-8, np.nan), (1, 1e7)]
)
def test_adam_takes_quick_quotients_only_where_they_are_exact(eps, root_scale, approximations, ptx):
    """Moments of all bits there are: infinite, subnormal, negative, not numbers."""
    random = np.random.default_rng(1)
    first, second = random.integers(0, 1 << 32, (2, 1 << 14), np.uint32).view(np.float32)
    usual = slice(0, 1 << 13)  # first moments up to 1, second ones of any size that theirs may have
    first[usual] = random.standard_normal(1 << 13) * np.exp2(random.integers(-20, 1, 1 << 13))
    second[usual] = np.square(first[usual]) * np.exp2(random.integers(-3, 20, 1 << 13))
    first[:500:2] = second[1:500:2] = 0
    scalars = np.array([eps, root_scale], np.float32)
    *_, quotient, exact = run_arrays(
        ptx, "adam_quotients", first, second, scalars, np.zeros_like(first), np.zeros(len(first), np.int32)
    )
    exact = exact != 0
    with np.errstate(all="ignore"):
        expected = first / (np.sqrt(second) * scalars[1] + scalars[0])
    assert np.array_equal(quotient[exact], expected[exact])
    if 0 <= eps < 1 and root_scale >= 1:
        assert exact[500 : 1 << 13].mean() > 0.99 and not exact[:500].any()
        assert 0.01 < exact[1 << 13 :].mean() < 0.9
    elif not eps >= 0 or not root_scale < 1 << 20:
        assert not exact.any()


def test_no_instruction_may_be_contracted_or_rounded_otherwise(ptx):
    steps = [*(f"step_{kind}" for kind in KINDS), *(f"relative_{kind}" for kind in RELATIVE_KINDS)]
    for source in ("noise", "records", "finish", *steps):
        for kernel in kernels_of(ptx(source)).values():
            running.check_rounding(kernel)


# Faults that are planted are found.


@pytest.fixture(scope="module")
def planted(ptx, recorded):
    """Runs a case of float32 SGD in place with the PTX changed by a function."""
    case = next(case for case in recorded if case.name == "float32, rule 1, in place, turn 0, measure 0")

    launch = case.launches[0]
    (name,) = [name for name in kernels_of(ptx("step_float32")) if "3SgdILb1EEEffLb0E" in name]
    text = ptx("step_float32")
    begin = text.index(f".entry {name}(")
    own = text[begin : text.index("\n}\n", begin)]

    def go(change):
        changed = change(own)
        assert changed != own
        program = Program(kernels_of(changed + "\n}\n")[name])
        return program.launch(launch.ctas, 128, launch.arguments, dict(case.before))

    return go


def first(pattern, into):
    return lambda text: re.sub(pattern, into, text, count=1)


def test_an_overrun_is_found(planted):
    with pytest.raises(Fault, match=r"outside of every allocation \[st.global.v4"):
        planted(first(r"st\.global\.v4\.f32 \[(%rd\d+)\]", r"st.global.v4.f32 [\1+65536]"))


def test_one_element_too_many_is_found(planted):
    """The bound of an element at a time is one off: i <= numel in place of i < numel."""
    with pytest.raises(Fault, match="outside of every allocation"):
        planted(lambda text: re.sub(r"setp\.gt\.s64 (\t%p\d+, %rd\d+, %rd\d+;)", r"setp.ge.s64 \1", text))


def test_a_missing_barrier_is_found(planted):
    with pytest.raises(Fault, match=r"race|nobody has written"):
        planted(lambda text: text.replace("bar.sync \t0;", ""))


def test_two_threads_at_one_place_are_found(planted):
    """Everybody takes part 0 of the superblock."""
    with pytest.raises(Fault, match="race"):
        planted(lambda text: re.sub(r"mov\.u32 \t(%r\d+), %tid\.x;", r"and.b32 \t\1, %tid.x, -2;", text))


def test_a_misaligned_row_is_found(planted):
    with pytest.raises(Fault, match="not aligned"):
        planted(first(r"ld\.global\.v4\.f32 (\t\{[^}]*\}), \[(%rd\d+)\]", r"ld.global.v4.f32 \1, [\2+4]"))


def test_a_register_without_value_is_found(planted):
    with pytest.raises(Fault, match="has no value"):
        planted(first(r"mov\.u32 \t%r\d+, %ctaid\.x;", ""))


def test_shared_memory_without_value_is_found(planted):
    with pytest.raises(Fault, match="nobody has written"):
        planted(first(r"st\.shared\.f32 [^;]*;", ""))


def test_a_write_to_the_arguments_is_found(planted):
    with pytest.raises(Fault, match="arguments"):
        planted(first(r"ld\.param\.u64 \t(%rd\d+), \[([\w$]+)[^\]]*\];",
                      r"ld.param.u64 \t\1, [\2];\n\tmov.b64 \t%rd1, \2;\n\tst.global.u64 [%rd1], %rd1;"))  # fmt: skip


def test_one_rounding_of_a_product_and_sum():
    """fma32 against exact rational numbers, at random and where two roundings differ from one."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 1 << 32, (3, 3000), dtype=np.uint32)
    bits = (bits & np.uint32(0x807FFFFF)) | (generator.integers(90, 165, bits.shape, dtype=np.uint32) << 23)
    a, b, c = (row.view(np.float32) for row in bits)
    near = np.float32(1 + 2**-12)
    a = np.concatenate([a, [near, near, np.float32(1)]])
    b = np.concatenate([b, [near, near, np.float32(1)]])
    c = np.concatenate([c, np.array([2**-40, -(2**-60), 2**-24], np.float32)])
    for x, y, z, got in zip(a, b, c, arithmetic.fma32(a, b, c)):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        around = [np.nextafter(got, np.float32(-np.inf)), got, np.nextafter(got, np.float32(np.inf))]
        apart = [abs(Fraction(float(value)) - exact) for value in around]
        assert apart[1] == min(apart)
        if apart[1] in (apart[0], apart[2]):  # a tie goes to the even one
            assert got.view(np.uint32) % 2 == 0
