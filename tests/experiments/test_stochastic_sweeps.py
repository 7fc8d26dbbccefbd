"""The sweeps of SE-SNN under label noise from the command line, at their smallest."""

import json
from dataclasses import asdict

import official_files
import pytest
from torch.nn.functional import cross_entropy

from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments import data
from nvrm_fast.experiments.stochastic.labels import sweeps as label_sweeps
from nvrm_fast.experiments.stochastic.labels.training import BASELINE, METHODS, SE_SNN, Recipe, corrupted, train


def test_the_sweeps_and_going_on_with_them(tmp_path, capsys, monkeypatch):
    official_files.write_mnist(tmp_path)
    out = tmp_path / "out"
    options = f"--preset tiny --data mnist --data-dir {tmp_path} --out {out}".split()
    assert command.main([label_sweeps.NAME, *options]) == 0
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table
    assert (out / "sweeps.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    runs, margin = results["runs"], results["settings"]["margin"]
    # Every method; another weight, another margin, one layer.
    assert len(runs) == len(METHODS) + 3
    points = {(run["weight"], run["margin"], run["layers"]) for run in runs if run["method"] == SE_SNN}
    assert points == {(0.01, margin, 2), (1.0, margin, 2), (0.01, 0.0, 2), (0.01, margin, 1)}

    # A method's run is the one that the sweep would have made at the same point.
    images = data.standardize(data.load("mnist", tmp_path))
    problem, _ = corrupted(images, 0.4, 0)
    alone, _ = train(problem, Recipe(2, 128, 1e-3, 0.01, margin, 2), SE_SNN, 0.4, 0, cross_entropy)
    (of_all,) = label_sweeps.at(runs, SE_SNN, 0.01, margin, 2)
    assert asdict(alone)["train_loss"] == of_all["train_loss"] and alone.test_accuracy == of_all["test_accuracy"]

    monkeypatch.setattr(label_sweeps, "train", lambda *given: pytest.fail("trained again"))
    monkeypatch.setattr(label_sweeps, "train_all", lambda *given: pytest.fail("trained again"))
    assert command.main([label_sweeps.NAME, *options]) == 0
    assert json.loads((out / "results.json").read_text())["runs"] == runs


def test_what_the_panels_show():
    chosen = label_sweeps.SweepSettings(weights=(0.1, 0.01), margins=(0.0, 1.0), weight=0.01, margin=1.0)
    points = [(SE_SNN, 0.01, 1.0, 2), (SE_SNN, 0.1, 1.0, 2), (SE_SNN, 0.01, 0.0, 2), (SE_SNN, 0.01, 1.0, 1),
              (BASELINE, 0.01, 1.0, 2)]  # fmt: skip
    runs = [dict(zip(("method", "weight", "margin", "layers"), point)) for point in points]
    shown = {
        name: {words: [runs.index(run) for run in mine] for words, mine in values.items()}
        for name, values in label_sweeps.panels(runs, chosen).items()
    }
    assert shown == {
        "weight": {"0.01": [0], "0.1": [1]},
        "margin": {"0": [2], "1": [0]},
        "stochastic layers": {"0 (baseline)": [4], "1": [3], "2": [0]},
    }


@pytest.mark.parametrize(
    "given, says", [("--weights -1", "--weights is (-1.0,)"), ("--margins inf", "--margins is (inf,)")]
)
def test_settings_out_of_range(given, says, tmp_path, capsys):
    assert command.main([label_sweeps.NAME, *given.split(), "--out", str(tmp_path)]) == 2
    assert f"error: {says}" in capsys.readouterr().err
