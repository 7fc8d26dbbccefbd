"""The device code of the layers: nvcc's PTX of every kernel instance, run on small tensors without a GPU, as
test_ptx.py runs the steps'. Activations and gradients are the CPU kernels' byte for byte; parts of sums are byte for
byte those of the same code compiled for the CPU (recorded_layers.cpp), which adds in the kernel's order."""

import re

import pytest
from ptx import running
from ptx.machine import Program
from ptx.memory import Fault
from ptx.source import kernels_of

THREADS = 128
SOURCES = ("stochastic", "direction_forward", "direction_backward")
SUMS, LAWS = 5, 6


def name_of(symbol):
    """As recorded_layers.cpp names a kernel's instance."""
    if "neuron_sums_kernel" in symbol:
        return "neuron sums"
    way = {"0": "forward", "1": "backward"}[re.search(r"ELb([01])E", symbol)[1]]
    sums = re.search(r"stochastic_kernelILNS_4SumsE(\d)", symbol)
    law = re.search(r"\d(NoDirection|Projected|Tangent|Rotation|BetaRotation|VonMisesFisher)ELb", symbol)
    return f"stochastic {sums[1]} {way}" if sums else f"direction {law[1]} {way}"


@pytest.fixture(scope="module")
def programs(ptx):
    return {name_of(symbol): Program(k) for source in SOURCES for symbol, k in kernels_of(ptx(source)).items()}


@pytest.fixture(scope="module")
def recorded(recording_of):
    return recording_of("recorded_layers")


@pytest.mark.parametrize("layer", ["stochastic", "direction"])
def test_passes_are_the_cpu_kernels_byte_for_byte(layer, recorded, programs):
    seen = set()
    for case in recorded:
        if case.name.startswith(layer):
            found = running.different(case, lambda launch: programs[launch.kernel], lambda launch: THREADS)
            assert found == [], case.name
            seen |= {launch.kernel for launch in case.launches}
    own = {name: program for name, program in programs.items() if name.startswith((layer, "neuron"))}
    if layer == "direction":
        own.pop("neuron sums")
    assert seen == set(own) and len(own) == (2 * SUMS + 1 if layer == "stochastic" else 2 * LAWS)
    shares = running.report(layer, own)
    assert min(shares.values()) >= 0.9


def test_no_instruction_may_be_contracted_or_rounded_otherwise(programs):
    for program in programs.values():
        running.check_rounding(program.kernel)


# Faults that are planted are found.


@pytest.fixture(scope="module")
def planted(ptx, recorded):
    """Runs the first case of a kernel's instance with the PTX changed by a function."""

    def go(source, name, change):
        text = ptx(source)
        (symbol,) = [symbol for symbol in kernels_of(text) if name_of(symbol) == name]
        begin = text.index(f".entry {symbol}(")
        own = text[begin : text.index("\n}\n", begin)]
        changed = change(own)
        assert changed != own
        program = Program(kernels_of(changed + "\n}\n")[symbol])
        case = next(case for case in recorded if case.launches[0].kernel == name)
        return running.different(case, lambda launch: program, lambda launch: THREADS)

    return go


def first(pattern, into):
    return lambda text: re.sub(pattern, into, text, count=1)


def without_barrier(number):
    """Of a kernel's barriers in the order of its text, this one is left out."""

    def change(text):
        places = [match.start() for match in re.finditer(r"bar\.sync \t0;", text)]
        return text[: places[number]] + text[places[number] + len("bar.sync \t0;") :]

    return change


@pytest.mark.parametrize(
    "source, name",
    [("stochastic", "stochastic 0 forward"), ("direction_forward", "direction Projected forward")],
)
def test_an_overrun_is_found(planted, source, name):
    with pytest.raises(Fault, match=r"outside of every allocation \[st.global.v4"):
        planted(source, name, first(r"st\.global\.v4\.f32 \[(%rd\d+)\]", r"st.global.v4.f32 [\1+65536]"))


def test_a_race_in_the_sums_of_objects_is_found(planted):
    with pytest.raises(Fault, match=r"race|nobody has written"):
        planted("stochastic", "stochastic 2 forward", without_barrier(0))


@pytest.mark.parametrize("barrier", [0, 1, 2])
def test_a_race_in_the_sums_over_columns_is_found(planted, barrier):
    with pytest.raises(Fault, match=r"race|nobody has written"):
        planted("direction_backward", "direction Projected backward", without_barrier(barrier))


def test_two_threads_at_one_place_are_found(planted):
    with pytest.raises(Fault, match="race"):
        planted(
            "stochastic",
            "stochastic 0 forward",
            lambda text: re.sub(r"mov\.u32 \t(%r\d+), %tid\.x;", r"and.b32 \t\1, %tid.x, -2;", text),
        )


def test_a_misaligned_row_is_found(planted):
    with pytest.raises(Fault, match="not aligned"):
        planted(
            "stochastic",
            "stochastic 0 forward",
            first(r"ld\.global\.v4\.u32 (\t\{[^}]*\}), \[(%rd\d+)\]", r"ld.global.v4.u32 \1, [\2+4]"),
        )


def test_another_order_of_a_sum_is_found(planted):
    """The parts are compared byte for byte: a sum that leaves one number out differs."""
    changed = planted(
        "stochastic", "stochastic 2 forward", first(r"(add\.rn\.f32 \t%f\d+, %f\d+), 0f00000000;", r"\1, 0f3F800000;")
    )
    assert changed != []
