"""The comparison study: its rule, what reaches the training, what is told and drawn; dropout, smoothing, averages."""

import json

import pytest
import torch

from studies import __main__ as command
from studies import data, models
from studies.study import Context
from studies.variability import comparison, training
from studies.variability.comparison import METHODS, Comparison


@pytest.fixture
def context(mnist, tmp_path):
    settings = Comparison(**Comparison.presets["tiny"])
    return Context(settings, data.standardize(data.load("mnist", mnist)), tmp_path)


def rows(settings, values):
    """Rows of all cells; values: accuracy on validation by (method, strength)."""
    made = []
    for cell in [*settings.cells()]:
        made.append({**cell, "test_accuracy": [values.get((cell["method"], cell["value"]), 0.1)]})
    for cell in settings.later_cells(made):
        accuracy = 0.6 + 0.1 * (cell["method"] == "nvrm") + 0.02 * cell["seed"]
        made.append(
            {**cell, "test_accuracy": [0.0] + 3 * [accuracy], "memorized": [0.25], "state_bytes_a_parameter": 4.0}
        )
    return made


def test_the_whole_study(mnist, tmp_path):
    options = f"comparison --preset tiny --data mnist --data-dir {mnist} --noise-rate 0.4 --methods sgd nvrm".split()
    assert command.main([*options, "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["judged_by"] for row in results["rows"]] == ["validation"] * 8 + ["test"] * 2
    assert {place["method"] for place in results["chosen"]} == {"sgd", "nvrm"}


def test_budgets_are_equal():
    assert {len(method.grid) for method in METHODS.values()} == {4}
    searched = [cell["method"] for cell in Comparison().cells()]
    assert len({searched.count(name) for name in METHODS}) == 1


def test_the_rule_takes_the_best_validation_score():
    settings = Comparison(methods=("sgd", "nvrm"), noise_rate=(0.4,), seeds=1, search_seeds=1)
    found = rows(settings, {("sgd", 0.1): 0.5, ("sgd", 0.3): 0.5, ("nvrm", 0.03): 0.4})
    assert comparison.choose(found) == {(0.4, "sgd"): 0.1, (0.4, "nvrm"): 0.03}
    heading, _, sgd, nvrm = comparison.table_of_search(found).splitlines()
    assert "40 % wrong labels" in heading
    assert "0.1: 50.0, 0.3: 50.0" in sgd and "0.03: 40.0" in nvrm


def test_each_strength_reaches_the_training(context, monkeypatch):
    seen = {}

    def train(problem, settings, optimizer, seed, **rest):
        seen[name] = (problem, settings, optimizer, seed)

    monkeypatch.setattr(training, "train", train)
    for name, method in METHODS.items():
        context.settings.run(context, judged_by="test", noise_rate=0.4, method=name, value=0.25, seed=3)
        _, settings, optimizer, _ = seen[name]
        assert getattr(settings, method.strength) == 0.25 and optimizer == method.optimizer
        assert settings.weight_decay == (0.25 if name == "decay" else 1e-4)
        assert (settings.relative == "rms") == name.endswith("relative")
    name = "sgd"
    whole, seed = seen["sgd"][0], seen["sgd"][3]
    context.settings.run(context, judged_by="validation", noise_rate=0.4, method="sgd", value=0.25, seed=3)
    held_out, other_seed = seen["sgd"][0], seen["sgd"][3]
    assert len(held_out.train_labels) == len(whole.train_labels) * 3 // 4 and other_seed != seed
    assert not torch.equal(held_out.test_images[:10], whole.test_images[:10])


def test_table_and_figure_show_the_rows():
    settings = Comparison(methods=("sgd", "nvrm", "sam"), seeds=2, search_seeds=1)
    made = settings.report(rows(settings, {}))
    noisy, clean = made.text.split("Clean labels:")
    lines = [line for line in noisy.splitlines() if "SGD, learning rate" in line]
    assert len(lines) == 1 and "61.0 ± 1.4" in lines[0] and "-10.0 [-10.0, -10.0]" in lines[0]
    assert "memorized" in noisy and "memorized" not in clean
    left, right = made.figures["comparison.png"].axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["SAM", "NVRM-SGD", "SGD, learning rate"]
    assert tuple(panel.get_title(loc="left") for panel in (left, right)) == ("40 % asymmetric flips", "Clean labels")
    assert [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"] == pytest.approx([61, 71, 61])


def test_unknown_method(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        command.main(["comparison", "--methods", "magic", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "magic" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_dropout_stands_before_the_last_layer():
    network = models.build("cnn", (1, 28, 28), 10, 2, seed=0)
    before = [parameter.clone() for parameter in network.parameters()]
    dropped = models.with_dropout(network, 0.5)
    assert [torch.equal(a, b) for a, b in zip(before, dropped.parameters(), strict=True)] == [True] * len(before)
    *_, dropout, last = dropped.modules()
    assert isinstance(dropout, torch.nn.Dropout) and dropout.p == 0.5 and last.out_features == 10


def test_smoothing_dropout_and_averages_change_the_training(context):
    """Smoothing against the formula: with all classes alike in the target the loss starts at log(10) whatever the
    labels; an average of decay near 1 stays at the initial weights while the network moves."""
    problem = training.corrupt(context.prepared, "asymmetric", 0.4, 0)
    base = {"network": "mlp", "width": 8, "epochs": 3, "batch_size": 10, "lr": 0.1}

    def train(**more):
        return training.train(problem, training.TrainingSettings(**base, **more), "SGD", 0)

    plain, smooth, frozen = train(), train(label_smoothing=0.99), train(ema_decay=0.999999)
    assert plain["train_loss"][-1] < 0.9 * plain["train_loss"][0]
    assert abs(smooth["train_loss"][-1] - 2.3026) < 0.1
    assert frozen["train_loss"] == plain["train_loss"] and frozen["test_accuracy"][-1] < plain["test_accuracy"][-1]
    assert frozen["state_bytes_a_parameter"] == plain["state_bytes_a_parameter"] + 4
    assert train(dropout=0.5)["train_loss"] != plain["train_loss"]
