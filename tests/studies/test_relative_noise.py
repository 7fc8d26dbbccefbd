"""The relative-noise study: what is trained, told and drawn."""

import json

import pytest
import torch

from studies import __main__ as command
from studies import data
from studies.optimizers import NVRM_SGD, SGD
from studies.study import Context
from studies.variability import training
from studies.variability.relative_noise import SCALES, RelativeNoise


def test_the_whole_study(mnist, tmp_path, capsys):
    options = f"relative-noise --preset tiny --data mnist --data-dir {mnist} --factors 0.5 --variability 0.03".split()
    assert command.main([*options, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["scale"] for row in rows] == [SGD, *(scale for scale in SCALES for _ in range(2))]
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out


def test_each_scale_reaches_the_optimizer(mnist, tmp_path, monkeypatch):
    seen = {}

    def train(problem, settings, optimizer, seed, **rest):
        seen[place] = (optimizer, settings.relative, settings.per, settings.noise_on_biases, settings.variability)
        return {"test_accuracy": [0.5], "memorized": [0.5]}

    monkeypatch.setattr(training, "train", train)
    settings = RelativeNoise(networks=("mlp",))
    context = Context(settings, data.standardize(data.load("mnist", mnist)), tmp_path)
    for place in (SGD, *SCALES):
        context.settings.run(context, network="mlp", scale=place, biases=False, factor=0.6, seed=0)
    assert seen[SGD][0] == SGD
    assert seen["absolute"] == (NVRM_SGD, None, "tensor", False, 0.6)
    assert seen["rms of a tensor"] == (NVRM_SGD, "rms", "tensor", False, 0.6)
    assert seen["rms of a row"] == (NVRM_SGD, "rms", "row", False, 0.6)
    assert seen["third of a row's largest"] == (NVRM_SGD, "absmax", "row", False, pytest.approx(0.2))


def test_biases_carry_noise_or_not():
    from studies import optimizers

    for noisy in (False, True):
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 3)
        settings = training.TrainingSettings(noise_on_biases=noisy, relative="rms", lr=1e-12, variability=0.5)
        before = [parameter.detach().clone() for parameter in network.parameters()]
        optimizer = optimizers.make_optimizer(NVRM_SGD, network, settings, 0)
        network(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        changed = [not torch.equal(old, new) for old, new in zip(before, network.parameters())]
        moved = [(new - old).abs().max() > 1e-6 for old, new in zip(before, network.parameters())]
        assert changed[0] and moved == [True, noisy]


def test_table_and_figure_show_the_rows():
    settings = RelativeNoise(seeds=2)
    rows = [
        {**cell, "test_accuracy": [0.0, 0.6, 0.7, 0.8 + 0.1 * cell["seed"]], "memorized": [0.25]}
        for cell in settings.cells()
    ]
    made = settings.report(rows)
    lines = [line for line in made.text.splitlines() if line.startswith("| cnn")]
    assert len(lines) == 1 + 2 * len(SCALES) and "71.7 ± 2.4" in lines[0]  # 70 and 73.3: means of the last three epochs
    above, below = made.figures["windows.png"].axes
    assert (above.get_xlabel(), below.get_xlabel()) == ("b", "factor")
    assert [bars.get_label() for bars in below.containers] == list(SCALES)[1:]
    assert below.containers[0].lines[0].get_xdata().tolist() == [0.5, 0.7]
