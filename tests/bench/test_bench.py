"""What of the bench can break without anybody noticing: the gate, the merging of parts, the comparison, the text."""

from __future__ import annotations

import json
import mmap

import pytest
import torch

from bench import (
    compare,
    contestants,
    cycle,
    gate,
    layer_table,
    machine,
    markdown,
    measure,
    memory,
    relative,
    report,
    scaling,
    stochastic_table,
)  # fmt: skip
from bench.parameter_lists import SMALL_LIST, copy_parameters, make_gradients, make_parameters
from nvrm_fast.ops.registry import _native

needs_native = pytest.mark.skipif(_native is None, reason="the native kernels are not built")
MACHINE = {"processor": "a processor", "torch": "2.13.0"}


def quartiles(middle: float, width: float = 0.01) -> dict[str, float]:
    return {"low": middle * (1 - width), "median": middle, "high": middle * (1 + width)}


def layer_row(name: str, seconds: float, ratio: float) -> dict:
    same = {"low": 1.0, "median": 1.0, "high": 1.0}
    return {
        "contestant": name,
        "seconds": quartiles(seconds),
        "ratio": same if ratio == 1 else quartiles(ratio),
        "ratio to the composite": None,
        "kept bytes": 1_000_000,
        "peak bytes": None,
        "all seconds": [seconds],
    }


def a_report() -> dict:
    """A whole report of one part, as the command writes it."""
    curve_rows = [
        {"at": at, "contestant": name, "value": quartiles(1e-3 * at), "seconds": quartiles(1e-3 * at), "ratio": ratio}
        for at in (1, 2)
        for name, ratio in (("plain", {"low": 1.0, "median": 1.0, "high": 1.0}), ("ours", quartiles(1.5)))
    ]
    rows = [layer_row("plain, torch", 0.010, 1), layer_row("rotation", 0.012, 1.2)]
    taken = {"taken": "2026-01-01 00:00 UTC", "took seconds": 1, "gate": "gate green: all", "rounds": 5}
    return {
        "machine": dict(MACHINE),
        "parts": {
            "layers": {**taken, "tables": [{"title": "a layer", "waiting": 0.0, "rows": rows}]},
            "scaling": {
                **taken,
                "tables": [{"title": "a curve", "axis": "batch", "unit": "ms", "waiting": None, "rows": curve_rows}],
            },
        },
    }


def test_a_report_is_the_same_as_itself():
    text, judgements = compare.compare(a_report(), a_report())
    assert judgements == [compare.SAME] * 6
    assert "0 faster, 6 same, 0 slower; 0 rows are in one report only" in text


def test_a_row_beyond_the_noise_is_found_and_one_within_it_is_not():
    other = a_report()
    slower, faster = other["parts"]["layers"]["tables"][0]["rows"][1], other["parts"]["scaling"]["tables"][0]["rows"][1]
    slower["ratio"], faster["ratio"] = quartiles(1.4), quartiles(1.2)
    text, judgements = compare.compare(a_report(), other)
    assert sorted(judgements) == sorted([compare.SLOWER, compare.FASTER] + 4 * [compare.SAME])
    (line,) = [line for line in text.splitlines() if "a layer: rotation" in line]
    assert compare.SLOWER in line and "ratio 1.167" in line
    # The same medians with wide quartiles are noise.
    slower["ratio"] = quartiles(1.4, width=0.2)
    assert compare.SLOWER not in compare.compare(a_report(), other)[1]


def test_a_small_difference_is_none_however_exact():
    other = a_report()
    other["parts"]["layers"]["tables"][0]["rows"][1]["ratio"] = quartiles(1.2 * 1.02, width=1e-4)
    first = a_report()
    first["parts"]["layers"]["tables"][0]["rows"][1]["ratio"] = quartiles(1.2, width=1e-4)
    assert set(compare.compare(first, other)[1]) == {compare.SAME}


def test_the_comparison_names_what_else_differs():
    other = a_report()
    other["machine"]["torch"] = "2.14.0"
    del other["parts"]["scaling"]
    text, judgements = compare.compare(a_report(), other)
    assert "- torch: 2.13.0 | 2.14.0" in text and "4 rows are in one report only" in text and len(judgements) == 2


def test_the_command_fails_on_a_slower_row(tmp_path, capsys):
    other = a_report()
    other["parts"]["layers"]["tables"][0]["rows"][1]["ratio"] = quartiles(2.0)
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, content in zip(paths, (a_report(), other)):
        path.write_text(json.dumps(content))
    compare.main([*map(str, paths)])
    with pytest.raises(SystemExit):
        compare.main([*map(str, paths), "--fail-if-slower"])
    assert "slower" in capsys.readouterr().out


def test_a_part_measured_anew_leaves_the_others(tmp_path):
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(a_report()))
    assert list(report.kept_parts(path, MACHINE, ["layers"])) == ["scaling"]
    assert report.kept_parts(path, MACHINE, list(report.PARTS)) == {}
    with pytest.raises(SystemExit, match="another machine"):
        report.kept_parts(path, {**MACHINE, "torch": "2.14.0"}, ["layers"])


def test_the_text_has_every_part_and_row_and_says_what_it_does_not_know():
    text = report.render(a_report(), {"layers": "cpu_layers.png"})
    for expected in ("## Noisy layers", "rotation", "1.20 (1.19 to 1.21)", "unknown", "cpu_layers.png", "a curve, ms"):
        assert expected in text


def test_a_busy_machine_gives_no_ratios():
    busy = a_report()["parts"]["layers"]["tables"][0] | {"waiting": 0.5}
    text = markdown.layer_section(busy)
    assert "busy machine" in text and "1.20" not in text


def test_pictures_are_drawn(tmp_path):
    plots = pytest.importorskip("bench.plots")
    drawn = plots.draw(a_report()["parts"], tmp_path / "cpu.md")
    assert drawn == {"scaling": "cpu_scaling.png", "layers": "cpu_layers.png"}
    for name in drawn.values():
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit):
        report.parse(["--parts", "steps,nothing"])
    assert "nothing" in capsys.readouterr().err


def test_repeated_runs_last_long_enough_to_be_timed():
    counted = []
    entrant, count = scaling.repeated(measure.Entrant(lambda: None, lambda: counted.append(1)))
    del counted[:]
    entrant.run()
    assert count == len(counted) and count > 100


def test_state_is_counted_wherever_an_optimizer_keeps_it():
    params = copy_parameters(start := make_parameters([(1000,)]), make_gradients(start))
    optimizer = contestants.make_optimizer("Adam", contestants.FOR_LOOP, params)
    optimizer.step()
    plain = contestants.state_bytes(optimizer)
    assert 8000 <= plain < 8100
    optimizer.param_groups[0]["kept in the group"] = torch.zeros(500)
    assert contestants.state_bytes(optimizer) == plain + 2000


def test_ivon_goes_back_to_its_mean():
    pytest.importorskip("ivon")
    start = make_parameters(SMALL_LIST)
    params = copy_parameters(start, make_gradients(start))
    optimizer = contestants.make_optimizer("Adam", contestants.IVON, params)
    optimizer.step()
    # Gradients of about 1, momentum 0.1 of them debiased, Hessian about 1: lr a step at most, a few times over.
    assert all((p - s).abs().max() < 10 * contestants.IVON_RATE for p, s in zip(params, start))
    assert any(not torch.equal(p, s) for p, s in zip(params, start))
    elements = sum(p.numel() for p in params)
    assert contestants.state_bytes(optimizer) >= 8 * elements


def test_memory_of_a_fresh_process_is_told():
    if memory.lower_peak() is None:
        pytest.skip("only Linux can lower the peak")
    before = memory.lower_peak()
    # A mapping of its own: the allocator may give a tensor pages that are resident already.
    with mmap.mmap(-1, 32_000_000) as touched:
        touched.write(b"1" * len(touched))
        assert memory.high_water() - before > 0.9 * len(touched)


@needs_native
def test_the_gate_is_green_on_layers_and_red_on_a_wrong_kernel(monkeypatch):
    assert "green" in layer_table.check_layers() and "green" in stochastic_table.check_kernels()
    right = gate.fill_noise_

    def wrong(target, *args, backend):
        right(target, *args, backend=backend)
        if backend == "native":
            target[7] = torch.nextafter(target[7], torch.tensor(2.0))

    monkeypatch.setattr(gate, "fill_noise_", wrong)
    with pytest.raises(gate.RedGate, match="noise alone"):
        gate._check_noise("gaussian", _native.instruction_set())


def test_all_contestants_draw_one_noise(monkeypatch):
    """The gate compares optimizers; without a seed each would have another."""
    monkeypatch.setattr("nvrm_fast.optim.base.default_seed", lambda earlier: 7)
    for variant in (contestants.IN_PLACE, contestants.MASTER):
        optimizer = contestants.make_optimizer("SGD", variant, [torch.nn.Parameter(torch.zeros(3))])
        assert optimizer.param_groups[0]["seed"] == 0


@needs_native
def test_the_gate_is_green_whatever_seeds_optimizers_get(monkeypatch):
    monkeypatch.setattr("nvrm_fast.optim.base.default_seed", lambda earlier: earlier)
    gate._check_native("SGD", torch.float32, False, "uniform", "cycle", [_native.instruction_set()])


@needs_native
def test_relative_noise_is_compared_with_absolute():
    """Every row has its times, and each carries the noise that it is named after."""
    found = relative.measure("SGD", 2, (6, 40)).seconds
    assert list(found) == list(relative.OPTIONS) and all(len(times) == 2 for times in found.values())
    assert {name.split(", ")[-1] for name in found} == {relative.ABSOLUTE, *relative.AIMS}


@needs_native
def test_cycled_noise_is_compared_with_independent_draws():
    found = cycle.measure("SGD", 2, (300,)).seconds
    sets = machine.benchmarked_instruction_sets()
    rows = [f"{name}, {instruction_set}" for name in cycle.OPTIONS for instruction_set in sets]
    assert list(found) == [cycle.BASELINE, *rows] and all(len(times) == 2 for times in found.values())
    # Each aim is for a row that there is, where the processor has its instruction set.
    assert all(name in cycle.OPTIONS and threads in cycle.THREADS for _, name, _, threads in cycle.AIMS)
