"""The sweeps of SE-SNN under label noise from the command line, at their smallest."""

import json

import pytest
from torch.nn.functional import cross_entropy

from studies import StudyError, data
from studies import __main__ as command
from studies.seeds import derive
from studies.stochastic.label_noise import LabelNoise, LabelSweeps
from studies.stochastic.label_training import Point, train
from studies.stochastic.methods import BASELINE, METHODS, SE_SNN
from studies.tables import select
from studies.variability.training import corrupt


def test_the_sweeps_from_the_command_line(mnist, tmp_path, capsys):
    out = tmp_path / "out"
    options = f"--preset tiny --data mnist --data-dir {mnist} --out {out}".split()
    assert command.main(["stochastic-label-noise-sweeps", *options]) == 0
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table
    results = json.loads((out / "results.json").read_text())
    rows, margin = results["rows"], results["settings"]["margin"]
    # Every method; another weight, another margin, one layer.
    assert len(rows) == len(METHODS) + 3
    points = {(row["weight"], row["margin"], row["layers"]) for row in rows if row["method"] == SE_SNN}
    assert points == {(0.01, margin, 2), (1.0, margin, 2), (0.01, 0.0, 2), (0.01, margin, 1)}

    # What the other study trains at the same point.
    seed = derive(0, "stochastic-label-noise-sweeps")
    problem = corrupt(data.standardize(data.load("mnist", mnist)), "patterned", 0.4, seed)
    alone, _ = train(problem, LabelNoise(epochs=2), Point(0.01, margin, 2), SE_SNN, seed, cross_entropy)
    (row,) = select(rows, method=SE_SNN, weight=0.01, margin=margin, layers=2)
    assert alone["train_loss"] == row["train_loss"] and alone["test_accuracy"] == row["test_accuracy"]


def some_rows(settings):
    for number, cell in enumerate(settings.cells()):
        yield cell | {"test_accuracy": [0.5, number / 100], "train_loss": [2.0, number / 10], "memorized": 0.5}


def test_what_the_panels_show():
    settings = LabelSweeps(weights=(0.1, 0.01), margins=(0.0, 1.0), weight=0.01, margin=1.0, seeds=1, epochs=2)
    rows = list(some_rows(settings))
    at = {(row["method"], row["weight"], row["margin"], row["layers"]): 50 * sum(row["test_accuracy"]) for row in rows}
    usual, one = at[SE_SNN, 0.01, 1.0, 2], at[SE_SNN, 0.01, 1.0, 1]
    expected = [
        ("weight", ["0.01", "0.1"], [usual, at[SE_SNN, 0.1, 1.0, 2]]),
        ("margin b", ["0", "1"], [at[SE_SNN, 0.01, 0.0, 2], usual]),
        ("stochastic layers", ["0 (baseline)", "1", "2"], [at[BASELINE, 0.01, 1.0, 2], one, usual]),
    ]
    made = settings.report(rows)
    *swept, losses = made.figures["sweeps.png"].axes
    for panel, (name, ticks, heights) in zip(swept, expected):
        assert panel.get_xlabel() == name
        assert [tick.get_text() for tick in panel.get_xticklabels()] == ticks
        assert panel.containers[0].lines[0].get_ydata() == pytest.approx(heights)
    assert [line.get_label() for line in losses.lines] == list(METHODS)
    assert losses.lines[1].get_ydata().tolist() == [2.0, 0.1]
    assert made.text.count("| 2 ") == 2  # a number of layers, and the loss after the second epoch


@pytest.mark.parametrize("wrong", [{"weights": (-1,)}, {"margins": (float("inf"),)}, {"strength": 1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(StudyError, match=f"--{next(iter(wrong))} is"):
        LabelSweeps(**wrong)
