"""The pruning study from the command line, at its smallest, and what it shows of its rows."""

import itertools
import json
import math
import sys

import official_files
import pytest
import torch

from studies import StudyError, data
from studies import __main__ as command
from studies.data import standardize
from studies.stochastic.pruning import loop
from studies.stochastic.pruning.report import PAPER, WITHIN, at
from studies.stochastic.pruning.study import Pruning
from studies.tables import plus_minus


@pytest.fixture
def options(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    official_files.write_mnist(folder, size=16)
    return f"--preset tiny --data mnist --data-dir {folder} --out {tmp_path / 'out'} --width 0.3".split()


def test_a_whole_study(options, tmp_path, capsys):
    state = torch.get_rng_state()
    assert command.main(["stochastic-pruning", *options, "--seeds", "2"]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    out = tmp_path / "out"
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table
    assert "| SE-SNN   | end of the loop, fine-tuned" in table and "| VIBNet    | 0.83" in table
    found = json.loads((out / "results.json").read_text())
    assert "torch-pruning" in found["versions"]
    assert [(row["method"], row["seed"]) for row in found["rows"]] == [
        (method, seed) for seed in (0, 1) for method in ("baseline", "SE-SNN")
    ]
    for row in found["rows"]:
        points = row["points"]
        assert points[-1]["multiplications"] <= 0.2 * points[0]["multiplications"]
        assert (row["log_sigma"]["firing"] is None) == (row["method"] == "baseline")


@pytest.mark.parametrize("network", ["mlp", "vgg16", "vgg16-convolutional"])
def test_the_other_networks(network, options, tmp_path):
    images = standardize(data.load("mnist", tmp_path / "images"))
    more = {"network": network, "width": 0.3 if network == "mlp" else 0.04, "noise_rate": 0.4, "at_once": 0.5}
    settings = Pruning(**(Pruning.presets["tiny"] | more | {"methods": ("SE-SNN",)}))
    (cell,) = settings.cells()
    row = cell | loop.one_run(images, settings, **cell)
    assert row["points"][-1]["multiplications"] <= 0.2 * row["points"][0]["multiplications"]
    assert "40 % of the training labels flipped" in settings.report([row]).text


def some_rows(settings):
    for number, cell in enumerate(settings.cells()):
        ways = [(1000, 0.1), (800, 0.1), (100 + number, 0.15), (50, 0.3)]
        points = [
            {"stage": stage, "widths": [4, 5], "weights": m, "multiplications": 1000 * m, "memory": m,
             "validation_error": error, "test_error": error, "test_changed": 0.0}
            for stage, (m, error) in zip(("whole", "active", "loop", "end"), ways)
        ]  # fmt: skip
        sigma = {"never firing": 1.0, "firing": -1.0}
        if cell["method"] == "baseline":
            sigma = dict.fromkeys(sigma)
        yield cell | {"points": points, "neurons": [4, 5], "never_firing": [1, 0], "log_sigma": sigma,
                      "seconds": {"training": 1.0, "pruning": 1.0}}  # fmt: skip


def test_what_a_sweep_shows():
    settings = Pruning(weights=(1e-4, 0.01), margins=(4.0, 0.0), seeds=2, tolerance=0.06)
    rows = list(some_rows(settings))
    assert len(rows) == 2 * 5 and len({(row["weight"], row["margin"]) for row in rows}) == 5
    made = settings.report(rows)
    assert f"| 0.0001 | {plus_minus([0.101, 0.106], 3)} | {plus_minus([0.102, 0.107], 3)} |" in made.text
    wide, near = made.figures["pruning.png"].axes
    names = ["baseline", *(f"SE-SNN, weight {w}, b = {b}" for w in ("0.0001", "0.01") for b in ("4.00", "0.00"))]
    shown = [line for line in wide.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in shown] == [*names, "the paper's SE-SNN, MNIST"]
    assert shown[0].get_ydata()[[0, -1]] == pytest.approx([30, 10])
    assert (shown[-1].get_xdata()[0], shown[-1].get_ydata()[0]) == PAPER["lenet5"][1]["SE-SNN"][1::2]
    assert wide.get_xlabel() == "multiplications, millions" and near.get_ylim() == pytest.approx((8, 14))


def test_lines_of_several_ways_of_pruning():
    settings = Pruning(criterion=("taylor", "entropy"), loop_noise=(False, True), seeds=2)
    rows = list(some_rows(settings))
    assert len(rows) == 2 * 5
    names = ["baseline"] + [
        f"SE-SNN, {by}, {noise} noise in the loop"
        for by, noise in itertools.product(("Taylor", "entropy"), ("without", "with"))
    ]
    made = settings.report(rows)
    wide, _ = made.figures["pruning.png"].axes
    assert [line.get_label() for line in wide.lines if not line.get_label().startswith("_")][:-1] == names
    assert all(f"| {name} " in made.text for name in names)


@pytest.mark.parametrize("name, shown", [("mnist", True), ("mnist-5000", True), ("fashion-mnist", False)])
def test_the_paper_s_figures_stand_beside_its_own_data(name, shown):
    settings = Pruning(data=name, seeds=1)
    made = settings.report(list(some_rows(settings)))
    wide, _ = made.figures["pruning.png"].axes
    assert ("The paper's, on MNIST" in made.text) == shown
    assert any("the paper's" in line.get_label() for line in wide.lines) == shown


def test_presets():
    paper = Pruning(**Pruning.presets["paper"])
    assert (paper.data, paper.at_once, paper.weights, paper.margins) == ("mnist", 0.0, (1e-4,), (math.log(4),))


def test_the_smallest_network_within_the_tolerance():
    errors = [(100, 0.10), (90, 0.05), (50, 0.111), (40, 0.109), (30, 0.2)]
    points = [{"multiplications": m, "validation_error": e} for m, e in errors]
    assert at({"points": points}, WITHIN, 0.01)["multiplications"] == 40
    assert at({"points": points}, WITHIN, 0.02)["multiplications"] == 40
    assert at({"points": points}, WITHIN, 0.1)["multiplications"] == 30


@pytest.mark.parametrize(
    "wrong",
    [{"target": 1.0}, {"weights": (-1.0,)}, {"margins": (float("inf"),)}, {"at_once": 1.0}, {"last_epochs": -1}],
)
def test_wrong_settings_name_the_option(wrong):
    name = next(iter(wrong)).replace("_", "-")
    with pytest.raises(StudyError, match=f"--{name} is"):
        Pruning(**wrong)


def test_without_the_package(options, tmp_path, capsys, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("studies.stochastic.pruning")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert command.main(["stochastic-pruning", *options]) == 2
    assert "needs the package torch_pruning: pip install -r studies/requirements.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
