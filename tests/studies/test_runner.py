"""The runner, by the study that studies/README.md writes."""

import importlib
import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from studies import __main__ as command
from studies import record, runner
from studies.study import Report, Study

ROOT = Path(__file__).parents[2]
PAGE, LINE = re.findall(r"^```(?:python)?\n(.*?)^```$", (ROOT / "studies/README.md").read_text(), re.M | re.S)


@pytest.fixture
def means(tmp_path, monkeypatch):
    """Adds the page's study as the page says: a file and a line. Returns its module."""
    (tmp_path / "page").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "page"))
    (tmp_path / "page" / "means.py").write_text(PAGE)
    name, where, what = LINE.strip().split(" | ")
    monkeypatch.setitem(command.STUDIES, name, (where, what))
    yield importlib.import_module("means")
    del sys.modules["means"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def start(out, *more, preset="tiny"):
    return command.main(["means", "--preset", preset, "--out", str(out), *map(str, more)])


def environment(tmp_path):
    """For a Python of its own. It leaves no bytecode, which a limit on files would cut short."""
    return {"PYTHONPATH": f"{tmp_path / 'page'}:{ROOT}", "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}


def rows(out):
    return json.loads((out / "results.json").read_text())["rows"]


def test_a_new_study_is_one_file_and_one_line(means, out, capsys):
    assert start(out) == 0
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and table.count("\n") == 5
    results = json.loads((out / "results.json").read_text())
    assert (
        results["study"] == "means" and results["preset"] == "tiny" and results["settings"]["sizes"] == [10, 100, 1000]
    )
    assert {"nvrm_fast", "torch", "python", "device", "threads"} <= results["versions"].keys()
    assert [(row["size"], row["seed"]) for row in results["rows"]] == [(n, s) for s in (0, 1) for n in (10, 100, 1000)]
    assert abs(results["rows"][2]["mean"]) < 0.2  # 6 standard errors of 1000 draws
    assert (out / "means.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = means.Means(seeds=2).report(results["rows"]).figures.values()
    (panel,) = figure.axes
    assert panel.get_xlabel() == "n" and [text.get_text() for text in panel.get_xticklabels()] == ["10", "100", "1000"]
    assert panel.collections[0].get_offsets().tolist() == [[row["size"], row["mean"]] for row in results["rows"]]


def test_every_study_of_the_list_has_its_presets():
    for name, (where, what) in command.STUDIES.items():
        study = runner.study_of(name, where)
        assert issubclass(study, Study) and what
        assert list(study.presets) in ([*runner.PRESETS], [preset for preset in runner.PRESETS if preset != "long"])
        for preset, values in study.presets.items():
            settings = study(**values)
            cells = list(settings.cells())
            assert cells and len({json.dumps(cell, sort_keys=True) for cell in cells}) == len(cells), (name, preset)
            assert all(json.loads(json.dumps(cell)) == cell for cell in cells)
            assert set(study.extends) <= {field for field in settings.__dataclass_fields__}


def test_help_and_unknown_names(means, capsys):
    assert command.main([]) == 0 and "means" in capsys.readouterr().out
    assert command.main(["meens"]) == 2 and "choose one of label-noise" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        command.main(["means", "--preset", "tiny", "--help"])
    told = capsys.readouterr().out
    assert stopped.value.code == 0 and "how many samples of each size (default: 2)" in told and "--preset" in told
    with pytest.raises(SystemExit) as stopped:
        command.main(["means", "--preset", "huge"])
    assert stopped.value.code == 2
    capsys.readouterr()
    # Not every study has the preset long.
    assert command.main(["means", "--preset", "long"]) == 2
    assert capsys.readouterr().err == "error: means has no --preset long: choose of tiny, quick, paper\n"


@pytest.mark.parametrize(
    "option, says",
    [
        ("--deviation 0", "--deviation is 0.0: Input should be greater than 0"),
        ("--deviation nan", "--deviation is nan"),
        ("--sizes 10 0", "--sizes is (10, 0): Input should be greater than or equal to 1"),
        ("--sizes many", "Error parsing --sizes"),
        ("--color red", "Unrecognized options: --color"),
    ],
)
def test_wrong_options_end_with_status_2_and_the_remedy(means, out, option, says, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        start(out, *option.split())
    assert stopped.value.code == 2 and says in capsys.readouterr().err and not out.exists()


def test_a_device_that_is_not_there(means, out, capsys):
    assert start(out, "--device", "nothing") == 2
    assert "--device nothing cannot be used here" in capsys.readouterr().err and not out.exists()


def test_more_cells_keep_the_first_and_other_settings_are_refused(means, out, capsys):
    assert start(out) == 0
    first, lines = rows(out), (out / "runs.jsonl").read_bytes()
    assert start(out, "--seeds", 3, "--sizes", 10, 100, 1000, 20) == 0
    assert [row for row in rows(out) if row in first] == first and len(rows(out)) == 12
    assert (out / "runs.jsonl").read_bytes().startswith(lines)
    capsys.readouterr()
    assert start(out, "--deviation", 2) == 2
    assert (
        "has cells of other settings (deviation): name another folder, or delete them by --fresh"
        in capsys.readouterr().err
    )
    assert start(out, "--deviation", 2, "--fresh") == 0
    assert rows(out)[0]["mean"] == pytest.approx(2 * first[0]["mean"]) and len(rows(out)) == 6


def test_cells_of_an_earlier_results_file_are_taken_over(means, out, tmp_path, monkeypatch, capsys):
    assert start(out) == 0
    file, first = tmp_path / "results.json", rows(out)
    file.write_bytes((out / "results.json").read_bytes())
    made = []
    run = means.Means.run
    monkeypatch.setattr(means.Means, "run", lambda *given, **cell: made.append(cell) or run(*given, **cell))
    assert start(tmp_path / "more", "--seeds", 3, "--extend", file) == 0
    assert [row for row in rows(tmp_path / "more") if row in first] == first and len(made) == 3
    capsys.readouterr()
    content = json.loads(file.read_text())
    del content["settings"]["deviation"]  # as if it had been added to the study since then
    file.write_text(json.dumps(content))
    assert start(tmp_path / "older", "--extend", file) == 0 and rows(tmp_path / "older") == first
    for options, says in (
        (("--deviation", 2), "is of other settings (deviation)"),
        (("--extend", tmp_path / "nowhere"), "is not the results.json of a study"),
    ):
        assert start(tmp_path / "refused", "--extend", file, *options) == 2
        assert says in capsys.readouterr().err and not (tmp_path / "refused").exists()
    file.write_text(json.dumps(content | {"study": "medians"}))
    assert start(tmp_path / "refused", "--extend", file) == 2 and "another study (medians)" in capsys.readouterr().err


def test_processes_give_the_same_numbers(means, out, tmp_path):
    assert start(out, "--processes", 1) == 0 and start(tmp_path / "two", "--processes", 2) == 0
    assert rows(out) == rows(tmp_path / "two")


def test_a_killed_run_goes_on_to_the_same_digits(means, out, tmp_path):
    slow = PAGE.replace("    generator = torch", "    import time; time.sleep(0.3)\n        generator = torch")
    (tmp_path / "page" / "slow_means.py").write_text(slow)
    code = (
        "from studies import __main__ as command; command.STUDIES['means'] = ('slow_means:Means', '');"
        f"command.main(['means', '--preset', 'tiny', '--out', {str(out)!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=environment(tmp_path)) as process:
        until = time.monotonic() + 120
        while not (out / "runs.jsonl").exists() or len((out / "runs.jsonl").read_text().splitlines()) < 3:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    kept = (out / "runs.jsonl").read_bytes()
    assert 3 <= kept.count(b"\n") < 7 and not (out / "results.json").exists()
    with (out / "runs.jsonl").open("ab") as file:
        file.write(b'{"cell": {"size"')  # what a kill in the middle of a line leaves
    assert start(out) == 0 and start(tmp_path / "whole") == 0
    assert rows(out) == rows(tmp_path / "whole")
    assert (out / "runs.jsonl").read_bytes() == (tmp_path / "whole" / "runs.jsonl").read_bytes()


def test_two_runs_into_one_folder(means, out, capsys):
    out.mkdir()
    with FileLock(out / record.LOCK):
        assert start(out) == 2
    assert "belongs to a run that goes on: wait for it, or name another folder" in capsys.readouterr().err
    assert start(out) == 0  # the lock is no file that stays in the way


@pytest.mark.parametrize(
    "content", [b"\x93NUMPY\x01\x00\n\xff\xfe", b"\x89PNG", b"some notes\n", b'{"cell": 1}\n', b"3\n"]
)
def test_a_record_that_is_none(means, out, content, capsys):
    out.mkdir()
    (out / "runs.jsonl").write_bytes(content)
    assert start(out) == 2
    assert "runs.jsonl is damaged, or no study's" in capsys.readouterr().err
    assert (out / "runs.jsonl").read_bytes() == content


def test_a_damaged_line_between_others(means, out, capsys):
    assert start(out) == 0
    lines = (out / "runs.jsonl").read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], lines[2][:9] + b"\n", *lines[3:]])
    (out / "runs.jsonl").write_bytes(damaged)
    assert start(out) == 2 and "is damaged" in capsys.readouterr().err
    assert (out / "runs.jsonl").read_bytes() == damaged


def test_a_folder_of_another_study_or_of_something_else(means, out, capsys, monkeypatch):
    assert start(out) == 0
    monkeypatch.setitem(command.STUDIES, "medians", command.STUDIES["means"])
    assert command.main(["medians", "--preset", "tiny", "--out", str(out)]) == 2
    assert "has cells of another study (means)" in capsys.readouterr().err
    (out / "runs.jsonl").unlink()
    assert start(out) == 2
    assert "holds other files and no runs.jsonl of a study: name another folder" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(means, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert start(tmp_path / "file") == 2
    assert f"--out {tmp_path / 'file'} cannot be written to" in capsys.readouterr().err


def test_a_full_disk_keeps_what_is_finished(means, out, tmp_path):
    # A limit on the size of files stands in for the disk: the third line does not fit any more.
    limit = f"""
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        from studies import __main__ as command, runner
        command.STUDIES["means"] = ("means:Means", "")
        resource.setrlimit(resource.RLIMIT_FSIZE, (340, 340))
        sys.exit(command.main(["means", "--preset", "tiny", "--out", {str(out)!r}]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(limit)],
        env=environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "cannot be written to (File too large): free space there" in done.stderr
    assert not (out / "results.json").exists()
    kept = (out / "runs.jsonl").read_bytes()
    assert 2 <= kept.count(b"\n") < 7
    assert start(out) == 0 and start(tmp_path / "whole") == 0
    assert rows(out) == rows(tmp_path / "whole")


def test_a_package_that_is_missing_is_told_at_the_start(means, out, tmp_path, capsys, monkeypatch):
    (tmp_path / "page" / "needs.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.setitem(command.STUDIES, "needs", ("needs:Needs", ""))
    assert command.main(["needs"]) == 2
    told = capsys.readouterr().err
    assert "needs needs the package a_package_that_is_not_there: pip install -r studies/requirements.txt" in told


def test_cells_that_depend_on_rows_come_later(means, out, capsys, monkeypatch):
    def later_cells(study, first):
        best = min(first, key=lambda row: abs(row["mean"]))
        return [{"size": best["size"], "seed": 7}]

    def report(study, rows):
        return Report(f"{len(rows)} rows", found={"best": rows[-1]["size"]})

    monkeypatch.setattr(means.Means, "later_cells", later_cells)
    monkeypatch.setattr(means.Means, "report", report)
    assert start(out) == 0
    results = json.loads((out / "results.json").read_text())
    assert len(results["rows"]) == 7 and results["best"] == results["rows"][-1]["size"]
    assert "7 rows" in capsys.readouterr().out


def test_results_that_are_no_json_leave_the_record_as_it_was(means, out, monkeypatch):
    monkeypatch.setattr(means.Means, "run", lambda study, context, **cell: {"mean": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        start(out)
    assert (out / "runs.jsonl").read_text().count("\n") == 1


def test_what_several_cells_need_is_made_once(tmp_path):
    path, made = tmp_path / "checkpoints" / "shared.pt", []
    with pytest.raises(ZeroDivisionError):
        record.once(path, lambda: 1 / 0, "cpu")
    assert not path.exists()

    def make():
        time.sleep(0.1)  # so that the others come while it is being made
        made.append(1)
        return {"tensor": torch.arange(3), "text": ["a", None]}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: record.once(path, make, "cpu"), range(4)))
    assert made == [1]
    assert all(one["text"] == ["a", None] and torch.equal(one["tensor"], torch.arange(3)) for one in found)


def test_progress_without_a_terminal_is_lines(capsys):
    with runner._Lines(total=4, bar_format="{percentage:3.0f} %") as bar:
        bar.update(0.5)
        assert capsys.readouterr().err == ""  # not at every update
        bar.mininterval = 0
        bar.update(0.5)
        assert capsys.readouterr().err == " 25 %\n"
        bar.update(3)
    assert capsys.readouterr().err == ""  # the table comes next


def test_progress_of_processes_reaches_the_bar(mnist, tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(runner._Lines, "update", lambda bar, n=1: (seen.append(n), setattr(bar, "n", bar.n + n)))
    options = (
        f"label-noise --preset tiny --epochs 3 --data mnist --data-dir {mnist} --processes 2 --noise-kind symmetric"
    )
    options += (
        f" --noise-rate 0.4 --optimizers SGD NVRM-SGD --weight-decay 0 --variability 0.02 --out {tmp_path / 'out'}"
    )
    assert command.main(options.split()) == 0
    assert sum(seen) == pytest.approx(2)  # both are done
    said = capsys.readouterr().out
    assert "label-noise: 2 runs, 2 at a time, on cpu" in said
    assert said.rstrip().endswith(f"The picture: {tmp_path / 'out' / 'curves.png'}")
    assert command.main(options.split()) == 0
    assert f"2 of 2 runs are in {tmp_path / 'out'} already" in capsys.readouterr().out
