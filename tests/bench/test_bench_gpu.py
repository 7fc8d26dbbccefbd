"""The GPU's bench without a GPU: what is kept of a run that breaks off, labels, the script's stages in a rehearsal."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_layers, gpu_lists, gpu_measure, gpu_report, gpu_results
from bench.gpu_results import Results, render
from nvrm_fast.ops.registry import _native

ROOT = Path(__file__).parents[2]
needs_native = pytest.mark.skipif(_native is None, reason="the native kernels are not built")
FACTS = {"GPU": "a GPU", "driver": "1.2", "torch": "2.11"}
FIGURES = {
    "seconds": 1e-3, "fastest": 9e-4, "slowest": 2e-3, "bytes to move": 2_000_000, "bytes a second": 2e9,
    "of copy": 0.8, "host seconds": 1e-4, "extra state": 0.0, "extra peak": 0,
}  # fmt: skip


def line(text, contestant):
    (found,) = [row for row in text.splitlines() if row.startswith(f"| {contestant}")]
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.fixture
def results(tmp_path):
    results = Results(tmp_path / "a-gpu.json")
    results.start(FACTS, 2.5e9)
    results.add("steps", "SGD, one tensor", "torch, fused", None, FIGURES, is_baseline=True)
    return results


def test_every_row_is_written_at_once(results):
    results.add("steps", "SGD, one tensor", "ours", "native", {**FIGURES, "seconds": 1.1e-3})
    text = results.path.with_suffix(".md").read_text()
    assert line(text, "ours")[1:] == [
        "1.100", "0.900 to 2.000", "1.100", "2 000 000", "2", "80 %", "0.100", "0.00", "0",
    ]  # fmt: skip
    assert line(text, "torch, fused")[3] == "1.000" and "- driver: 1.2" in text
    assert json.loads(results.path.read_text()) == results.data and not list(results.path.parent.glob("*.new"))


def test_a_second_call_adds_to_the_first(results):
    again = Results(results.path)
    again.start({**FACTS, "driver": "1.3"}, 2.4e9)
    again.add("steps", "SGD, one tensor", "ours", "native", FIGURES)
    again.add("layers", "linear", "projected", "layers", {k: FIGURES[k] for k in ("seconds", "fastest", "slowest")})
    text = again.path.with_suffix(".md").read_text()
    assert "Run 1, " in text and "Run 2, " in text and again.copy == 2.4e9
    assert line(text, "torch, fused")[0].endswith("[run 1]") and line(text, "ours")[0].endswith("[run 2]")
    assert line(text, "projected")[3] == ""  # no baseline, no ratio
    # Measured again, a row takes its own place.
    again.add("steps", "SGD, one tensor", "torch, fused", None, {**FIGURES, "seconds": 5e-4}, is_baseline=True)
    text = render(again.data)
    assert line(text, "ours")[3] == "2.000" and len(again.data["rows"]) == 3


def test_tests_label_and_never_hide(results):
    results.add("steps", "SGD, one tensor", "ours", "native", FIGURES)
    assert "(not tested in this run)" in line(render(results.data), "ours")[0]
    gpu_results.main(["stage", str(results.path), "native tests", "2 failed, 8 passed", "31"])
    text = results.path.with_suffix(".md").read_text()
    name, milliseconds, *_ = line(text, "ours")
    assert name == "ours (its tests: 2 failed, 8 passed)" and milliseconds == "1.000"
    assert "- native tests: 2 failed, 8 passed (31 s)" in text
    gpu_results.main(["stage", str(results.path), "native tests", "passed", "30"])
    text = results.path.with_suffix(".md").read_text()
    assert line(text, "ours")[0] == "ours"


def test_a_row_that_fails_says_why(results):
    results.add("steps", "SGD, one tensor", "ours", "native", {"failed": "OutOfMemoryError: too large"})
    assert line(render(results.data), "ours")[1] == "OutOfMemoryError: too large"


def test_stages_need_a_run(tmp_path):
    with pytest.raises(SystemExit, match="facts comes first"):
        gpu_results.main(["stage", str(tmp_path / "none.json"), "build", "passed", "3"])


def run(script, *arguments, **environment):
    return subprocess.run(
        [script, *arguments], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_the_script_says_how_it_is_called():
    done = run("bench/on_gpu.sh")
    assert done.returncode == 2 and "bench/on_gpu.sh 2" in done.stdout


@pytest.mark.parametrize("part, table", [("steps", "SGD, one tensor, 100M, float32"), ("memory", "Adam, ViT-L/16")])
def test_a_rehearsal_measures_every_row(part, table, tmp_path):
    path = tmp_path / "rehearsal.json"
    for arguments in (["facts"], [part, "--seconds", "20"]):
        command = ["-m", "bench.gpu_report", *arguments, "--results", str(path)]
        done = run(sys.executable, *command, NVRM_FAST_REHEARSAL="1", PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr
    data = json.loads(path.read_text())
    assert data["runs"][0]["facts"]["GPU"] == "rehearsal on the CPU"
    rows = [row for row in data["rows"] if row["title"].startswith(table)]
    assert [row["tested by"] for row in rows][:4] == [None, "native", "native", None]
    failed = [row for row in data["rows"] if "failed" in row]
    assert all(row["tested by"] == "native" for row in failed)  # where nothing was built


class Stream:
    def wait_stream(self, other):
        pass


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


class Graph:
    replayed = 0

    def replay(self):
        Graph.replayed += 1


@pytest.fixture
def stand_in_for_cuda(monkeypatch, threads):
    """All of torch.cuda that the bench calls, on CPU tensors and with small lists: for the lines that a rehearsal does
    without."""
    threads(1)
    small = {name: [(300,), (7, 5)][: 1 if name.startswith("one") else 2] for name in gpu_lists.gpu_lists()}
    for module in (gpu_measure, gpu_report, gpu_layers):
        monkeypatch.setattr(module, "DEVICE", torch.device("cpu"))
        monkeypatch.setattr(module, "REHEARSAL", False)
    monkeypatch.setattr(gpu_report, "gpu_lists", lambda: small)
    monkeypatch.setattr(gpu_report, "ORDER", ("one tensor, 100M", "ResNet-34", "ViT-L/16"))
    monkeypatch.setattr(gpu_report, "PAST_THE_CACHE", 10_000)
    monkeypatch.setattr(gpu_measure, "ROUNDS", 2)
    monkeypatch.setattr(gpu_measure, "COPIED_ELEMENTS", 1000)
    monkeypatch.setattr(gpu_layers, "SIZE", 16)
    allocated = itertools.count(1_000_000, 500)
    for name, value in dict(
        _sleep=lambda cycles: None, synchronize=lambda: None, Event=Event, Stream=Stream, CUDAGraph=Graph,
        current_stream=Stream, stream=lambda stream: contextlib.nullcontext(),
        graph=lambda graph: contextlib.nullcontext(), get_device_name=lambda: "a GPU",
        memory_allocated=lambda: next(allocated), max_memory_allocated=lambda: next(allocated),
        reset_peak_memory_stats=lambda: None, empty_cache=lambda: None,
    ).items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)


@needs_native
@pytest.mark.parametrize("part", ["steps", "graphs", "memory", "layers"])
def test_the_lines_for_a_gpu(part, stand_in_for_cuda, tmp_path):
    where = ["--results", str(tmp_path / "a-gpu.json")]
    gpu_report.main(["facts", *where])
    if part == "layers":
        gpu_layers.main(where)
    else:
        gpu_report.main([part, *where])
    data = json.loads((tmp_path / "a-gpu.json").read_text())
    assert data["runs"][0]["facts"]["GPU"] == "a GPU"
    assert {"steps": 36, "graphs": 16, "memory": 12, "layers": 9}[part] == len(data["rows"])
    assert [row["failed"] for row in data["rows"] if "failed" in row] == []
    assert all(row.get("seconds", 1) > 0 for row in data["rows"])
    if part == "steps":
        extra = {row["contestant"]: row["extra peak"] for row in data["rows"]}
        assert set(extra.values()) == {500}
    if part == "graphs":
        assert Graph.replayed >= 16 * (gpu_measure.WARM_UP + 2)


def rehearsed_stages(tmp_path, *python):
    """The script with a Python of our own: what each stage is told, and how it ends."""
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\n" + "\n".join(python) + "\n")
    stand_in.chmod(0o755)
    return run("bench/on_gpu.sh", "1", NVRM_FAST_REHEARSAL="1", PYTHON=str(stand_in))


def test_stages_that_fail_stop_nothing(tmp_path):
    done = rehearsed_stages(
        tmp_path,
        'case "$*" in',
        "*pytest*) echo '2 failed, 8 passed in 3.1s'; exit 1;;",
        '*gpu_results*) echo "$5, $6" >> ' + str(tmp_path / "recorded") + ";;",
        "*'gpu_report compiled'*) exit 7;;",
        "esac",
    )
    assert done.returncode == 1 and "done in" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "recorded").read_text().splitlines() == [
        "module, brought along", "facts, passed", "native tests, 2 failed, 8 passed", "steps, passed",
        "Triton tests, 2 failed, 8 passed", "Triton steps, passed", "compiled steps, failed (exit 7)",
    ]  # fmt: skip


def test_nothing_ran_is_not_passed(tmp_path):
    done = rehearsed_stages(tmp_path, 'case "$*" in', "*pytest*) echo '9 skipped in 0.1s';;", "esac")
    assert "-- native tests: nothing ran: 9 skipped, " in done.stdout and done.returncode == 1
