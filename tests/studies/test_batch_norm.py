"""The batch-norm study: what it measures, and what it tells and draws."""

import json

import pytest
import torch
from torch import nn

from studies import __main__ as command
from studies import data, fit
from studies.variability import batch_norm, training
from studies.variability.batch_norm import BatchNorm
from studies.variability.training import TrainingSettings


def test_the_whole_study(mnist, tmp_path, capsys):
    options = f"batch-norm --preset tiny --data mnist --data-dir {mnist} --out {tmp_path / 'out'}".split()
    assert command.main(options) == 0
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert (row["network"], row["variability"]) == ("vgg16", 0.02)
    assert 0 <= row["measured"]["recalibrated"] <= 1


def test_statistics_are_those_of_the_training_images(mnist):
    loaded = data.standardize(data.load("mnist", mnist))
    problem = training.corrupt(loaded, "asymmetric", 0.0, 0)
    settings = TrainingSettings(network="vgg16", width=2, batch_size=len(problem.train_images))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(problem.train_images[0].numel()), nn.LazyLinear(10))
    network(problem.train_images)
    network[1].running_mean.fill_(torch.nan)
    found = batch_norm.recalibrated(network, problem, settings, 0)
    torch.testing.assert_close(network[1].running_mean, problem.train_images.flatten(1).mean(0))
    right = fit.predict(network, problem.test_images) == problem.test_labels
    assert found == {"recalibrated": float(right.double().mean())}


def test_table_and_figure_show_the_rows():
    settings = BatchNorm(seeds=2, networks=("vgg16",), variability=(0.0, 0.02))
    rows = [
        {"network": "vgg16", "variability": b, "seed": seed, "test_accuracy": [0.8 + 0.1 * seed],
         "measured": {"recalibrated": 0.9 + 0.08 * seed - b}}
        for seed in (0, 1) for b in (0.0, 0.02)
    ]  # fmt: skip
    made = settings.report(rows)
    lines = [line for line in made.text.splitlines() if line.startswith("| vgg16")]
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]
    assert cells[0][:3] == ["0", "85.0 ± 7.1", "94.0 ± 5.7"] and cells[0][3].startswith("+9.0 [")
    assert cells[1][:3] == ["0.02", "85.0 ± 7.1", "92.0 ± 5.7"] and cells[1][3].startswith("+7.0 [")
    (panel,) = made.figures["gain.png"].axes
    assert panel.get_xlabel() == "b" and panel.get_title("left") == "vgg16"
    old, new = panel.containers
    assert (old.get_label(), new.get_label()) == ("statistics of training", "computed anew")
    assert new.lines[0].get_ydata() == pytest.approx([94.0, 92.0])
