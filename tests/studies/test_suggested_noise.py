"""The study of suggested noise: its tasks, what is trained at which b, what is told and drawn."""

import json

import pytest
import torch

from studies import __main__ as command
from studies import data
from studies.optimizers import NVRM_SGD, SGD
from studies.study import Context
from studies.variability import suggested_noise, training
from studies.variability.suggested_noise import SUGGESTED, SuggestedNoise


@pytest.fixture
def context(mnist, tmp_path):
    settings = SuggestedNoise(**SuggestedNoise.presets["tiny"])
    return Context(settings, data.standardize(data.load("mnist", mnist)), tmp_path)


def test_the_whole_study(mnist, tmp_path):
    options = f"suggested-noise --preset tiny --data mnist --data-dir {mnist} --train-images 150".split()
    assert command.main([*options, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["task"], row["b"]) for row in rows] == [
        (task, b) for task in ("label-noise", "fine-tuning") for b in (0.0, SUGGESTED, 0.02, 0.05)
    ]
    assert all(("suggested" in row) == (row["b"] == SUGGESTED) for row in rows)
    assert all(0.001 < row["suggested"] < 1 for row in rows if "suggested" in row)


def test_halves_of_the_classes(context):
    whole = context.prepared
    lower, upper = (suggested_noise.of_classes(whole, upper=half) for half in (False, True))
    assert lower.classes == upper.classes == 5
    assert len(lower.train_labels) + len(upper.train_labels) == len(whole.train_labels)
    assert torch.equal(upper.train_labels.unique(), torch.arange(5))
    assert torch.equal(upper.train_images, whole.train_images[whole.train_labels >= 5])
    tuning = suggested_noise.tuning_problem(context, 3)
    assert len(tuning.train_labels) == 50 and int(tuning.train_labels.max()) < 5
    assert 0.2 < float(tuning.flipped.double().mean()) < 0.6


def test_fine_tuning_starts_from_the_trained_layers_and_a_new_last_one(context):
    settings = context.settings.at(variability=0.05)
    state, problem = suggested_noise.pretrained(context, settings, 3), suggested_noise.tuning_problem(context, 3)
    network = suggested_noise.fitted(state, problem, settings, 3)
    same = [torch.equal(state[name], value) for name, value in network.state_dict().items()]
    assert same == [True, True, True, True, False, False]
    again = suggested_noise.fitted(state, problem, settings, 3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters()))


def test_what_is_trained_at_which_b(context, monkeypatch):
    seen = []

    def train(problem, settings, name, seed, **rest):
        seen.append((name, settings.variability, settings.lr, rest["network"]))
        return {"test_accuracy": [0.5]}

    monkeypatch.setattr(training, "train", train)
    for b in (0.0, 0.05, SUGGESTED):
        context.settings.run(context, task="label-noise", network="mlp", b=b, seed=3)
    (plain, none, lr, start), (noisy, scale, _, other), (last, suggested, _, third) = seen
    assert (plain, none, noisy, scale, last) == (SGD, 0.0, NVRM_SGD, 0.05, NVRM_SGD) and 0 < suggested < 1
    for network in (other, third):  # the suggestion trained a copy
        assert all(torch.equal(a, b) for a, b in zip(start.parameters(), network.parameters()))
    assert lr == context.settings.lr


def test_table_and_figure_show_the_rows():
    settings = SuggestedNoise(seeds=2, networks=("mlp",), tasks=("label-noise",), variability=(0.02, 0.05))
    accuracies = {0.0: 0.5, SUGGESTED: 0.75, 0.02: 0.7, 0.05: 0.8}
    rows = [
        {**cell, "test_accuracy": [0.0] + 3 * [accuracies[cell["b"]] + 0.02 * cell["seed"]]}
        | ({"suggested": 0.03 + 0.02 * cell["seed"]} if cell["b"] == SUGGESTED else {})
        for cell in settings.cells()
    ]
    made = settings.report(rows)
    (line,) = [line for line in made.text.splitlines() if line.startswith("| label-noise") and "0.05" in line]
    assert "0.040 ± 0.014" in line and "76.0 ± 1.4" in line and "-5.0 [-5.0, -5.0]" in line
    (panel,) = made.figures["suggestion.png"].axes
    (dots,) = [line for line in panel.lines if line.get_linestyle() == "None" and line.get_marker() == "o"]
    assert dots.get_xdata() == pytest.approx([0.03, 0.05]) and dots.get_ydata() == pytest.approx([75, 77])


def test_more_training_images_than_there_are(mnist, tmp_path, capsys):
    options = ["--preset", "tiny", "--data", "mnist", "--data-dir", str(mnist), "--train-images", "100000"]
    assert command.main(["suggested-noise", *options, "--out", str(tmp_path / "out")]) == 2
    assert "--train-images is 100000" in capsys.readouterr().err and not (tmp_path / "out").exists()
