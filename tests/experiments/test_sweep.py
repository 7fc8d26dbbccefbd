import json

import official_files
import pytest
import torch

from nvrm_fast.experiments import StudyError, data
from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments.optimizers import NVRM_SGD, SGD
from nvrm_fast.experiments.settings import Settings
from nvrm_fast.experiments.variability import sweep


def row(optimizer, score, train_accuracy=0.9, network="cnn", lr=0.1, variability=0.0):
    return sweep.Row(optimizer, network, lr, 1e-4, variability, [score], [train_accuracy], [0.5])


def test_the_rule():
    rows = [
        row(SGD, 0.40),
        row(NVRM_SGD, 0.45, variability=0.1),
        row(NVRM_SGD, 0.50, variability=0.2),
        row(NVRM_SGD, 0.50, variability=0.3),
        row(SGD, 0.39, lr=0.2),
        row(SGD, 0.55, train_accuracy=0.6, lr=0.3),  # a good score, but it does not memorize
        row(NVRM_SGD, 0.58, variability=0.1, lr=0.2),
    ]
    assert list(sweep.choose(rows, 0.8).values()) == [rows[0], rows[2], rows[5], rows[6]]
    with pytest.raises(StudyError, match="--memorizes 0.95"):
        sweep.choose(rows, 0.95)


def test_validation_sees_no_test_image_and_no_clean_label(tmp_path):
    official_files.write_mnist(tmp_path)
    images = data.standardize(data.load("mnist", tmp_path))
    settings = Settings(network="mlp", noise_rate=0.9)
    problem = sweep.validation_problem(images, settings, 5)
    assert len(problem.train_labels) == len(problem.flipped) == 150 and len(problem.test_labels) == 50
    both = torch.cat([problem.train_images, problem.test_images]).flatten(1)
    together = torch.cat([both, images.train_images.flatten(1)]).unique(dim=0)
    assert len(together) == 200  # the two parts are the training images, each once
    where = (problem.test_images.flatten(1).unsqueeze(1) == images.train_images.flatten(1)).all(2).int().argmax(1)
    assert float((problem.test_labels != images.train_labels[where]).double().mean()) > 0.7


def test_the_whole_sweep_from_the_command_line(tmp_path, capsys):
    threads = torch.get_num_threads()
    official_files.write_mnist(tmp_path)
    options = f"--data mnist --data-dir {tmp_path} --network mlp --width 8 --lr 0.05 --weight-decay 0 1e-3 --epochs 2"
    options += f" --variability 0.01 0.1 --seeds 1 --sweep-seeds 2 --memorizes 0 --out {tmp_path / 'out'}"
    assert command.main(["label-noise-sweep", *options.split()]) == 0
    torch.set_num_threads(threads)
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert text in capsys.readouterr().out
    assert "baseline (rule 2)" in text
    results = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert len(results["rows"]) == 6 and all(len(row["score"]) == 2 for row in results["rows"])
    assert results["confirmed"].keys() == results["chosen"].keys()


def test_the_sweep_checks_its_grid_before_it_trains(tmp_path, capsys, monkeypatch):
    official_files.write_mnist(tmp_path)
    monkeypatch.setattr(sweep.training, "train", lambda *_, **__: pytest.fail("trained first"))
    options = f"--data mnist --data-dir {tmp_path} --lr 0.1 -0.5 --out {tmp_path}"
    assert command.main(["label-noise-sweep", *options.split()]) == 2
    assert "--lr is -0.5" in capsys.readouterr().err
