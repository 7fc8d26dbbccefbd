"""The sweep that chose the defaults of label-noise: its rule, its validation split, its report."""

import json

import pytest
import torch

from studies import StudyError, data, tables
from studies import __main__ as command
from studies.optimizers import NVRM_SGD, SGD
from studies.variability import label_noise_sweep as sweep
from studies.variability import training
from studies.variability.label_noise_sweep import Sweep


def row(optimizer, score, train_accuracy=0.9, network="cnn", lr=0.1, variability=0.0):
    return {
        "judged_by": "validation", "optimizer": optimizer, "network": network, "lr": lr, "weight_decay": 1e-4,
        "variability": variability, "seed": 0, "test_accuracy": [score], "train_accuracy": [train_accuracy],
        "memorized": [0.5],
    }  # fmt: skip


ROWS = [
    row(SGD, 0.40),
    row(NVRM_SGD, 0.45, variability=0.1),
    row(NVRM_SGD, 0.50, variability=0.2),
    row(NVRM_SGD, 0.50, variability=0.3),
    row(SGD, 0.39, lr=0.2),
    row(SGD, 0.55, train_accuracy=0.6, lr=0.3),  # a good score, but it does not memorize
    row(NVRM_SGD, 0.58, variability=0.1, lr=0.2),
]


def test_the_rule():
    assert list(sweep.choose(ROWS, 0.8).values()) == [[ROWS[place]] for place in (0, 2, 5, 6, 2)]
    with pytest.raises(StudyError, match="--memorizes 0.95"):
        sweep.choose(ROWS, 0.95)
    later = list(Sweep(seeds=2).later_cells(ROWS))
    assert [(cell["optimizer"], cell["lr"], cell["variability"], cell["seed"]) for cell in later] == [
        (SGD, 0.1, 0.0, 0), (SGD, 0.1, 0.0, 1), (NVRM_SGD, 0.1, 0.2, 0), (NVRM_SGD, 0.1, 0.2, 1),
        (SGD, 0.3, 0.0, 0), (SGD, 0.3, 0.0, 1), (NVRM_SGD, 0.2, 0.1, 0), (NVRM_SGD, 0.2, 0.1, 1),
    ]  # fmt: skip
    # What two rules choose is trained once.
    assert len(list(Sweep(seeds=1).later_cells(ROWS[:3]))) == 2


def test_validation_sees_no_test_image_and_no_clean_label(mnist):
    images = data.standardize(data.load("mnist", mnist))
    problem = training.validation_problem(training.corrupt(images, "asymmetric", 0.9, 5), 5)
    assert len(problem.train_labels) == len(problem.flipped) == 150 and len(problem.test_labels) == 50
    both = torch.cat([problem.train_images, problem.test_images]).flatten(1)
    together = torch.cat([both, images.train_images.flatten(1)]).unique(dim=0)
    assert len(together) == 200  # the two parts are the training images, each once
    where = (problem.test_images.flatten(1).unsqueeze(1) == images.train_images.flatten(1)).all(2).int().argmax(1)
    assert float((problem.test_labels != images.train_labels[where]).double().mean()) > 0.7


def test_the_whole_sweep_from_the_command_line(mnist, tmp_path, capsys):
    out = tmp_path / "out"
    options = f"--data mnist --data-dir {mnist} --network mlp --width 8 --lr 0.05 --weight-decay 0 1e-3 --epochs 2"
    options += f" --variability 0.01 0.1 --seeds 1 --sweep-seeds 2 --memorizes 0 --out {out} --processes 1"
    assert command.main(["label-noise-sweep", *options.split()]) == 0
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    grid, confirmed = (tables.select(results["rows"], judged_by=by) for by in ("validation", "test"))
    assert len(grid) == 12 and all(len(one["test_accuracy"]) == 1 for one in grid)
    assert confirmed and all(len(one["test_accuracy"]) == 2 for one in confirmed)
    assert len(results["chosen"]) == 5
    for why, setting in results["chosen"].items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {why}")]
        (run,) = tables.select(confirmed, **setting)
        assert f"| {tables.percent(run['test_accuracy'][-1:])} " in line
    # The scores at a glance: those of SGD and of both b at each weight decay.
    matrix = text.split("\n\n")[3].splitlines()
    assert matrix[0].split("|")[1:-1] == [
        " network ", " lr   ", " weight decay ", " SGD  ", " b = 0.01 ", " b = 0.1 "
    ]  # fmt: skip
    scores = [one["test_accuracy"][-1] for one in tables.select(grid, optimizer=SGD, weight_decay=0.0)]
    assert matrix[2].split("|")[3].strip() == "0" and matrix[2].split("|")[4].strip() == f"{50 * sum(scores):.1f}"


def test_nothing_to_choose_is_told_and_the_grid_kept(mnist, tmp_path, capsys, monkeypatch):
    options = f"--preset tiny --data mnist --data-dir {mnist} --out {tmp_path / 'out'}".split()
    assert command.main(["label-noise-sweep", *options, "--memorizes", "1.5"]) == 2
    assert "no setting of SGD reaches --memorizes 1.5" in capsys.readouterr().err
    grid, train = [], training.train
    monkeypatch.setattr(training, "train", lambda *given, **more: grid.append(more) or train(*given, **more))
    assert command.main(["label-noise-sweep", *options]) == 0
    assert grid and all(more["every_epoch"] for more in grid)  # only what was chosen is trained


def test_the_sweep_checks_its_grid_before_it_trains(mnist, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    options = f"--data mnist --data-dir {mnist} --lr 0.1 -0.5 --out {tmp_path / 'out'}"
    with pytest.raises(SystemExit) as stopped:
        command.main(["label-noise-sweep", *options.split()])
    assert stopped.value.code == 2
    assert "--lr is (0.1, -0.5)" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_preset_paper_is_the_grid_of_the_documentation():
    grid = list(Sweep(**Sweep.presets["paper"]).cells())
    assert len({tuple(cell[name] for name in sweep.SETTING) for cell in grid}) == 252 and len(grid) == 3 * 252
