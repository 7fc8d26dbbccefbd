"""The pruning study from the command line, at its smallest, and stopped and gone on with."""

import json

import official_files
import pytest
import torch

from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments.record import FILE
from nvrm_fast.experiments.stochastic.pruning import study, tables
from nvrm_fast.experiments.stochastic.pruning.options import PruningSettings


@pytest.fixture
def options(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    official_files.write_mnist(folder, size=16)
    return f"--preset tiny --data mnist --data-dir {folder} --out {tmp_path / 'out'} --width 0.3".split()


def results(tmp_path):
    return json.loads((tmp_path / "out" / "results.json").read_text())


def test_a_whole_study(options, tmp_path, capsys):
    state = torch.get_rng_state()
    assert command.main(["stochastic-pruning", *options, "--seeds", "2"]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    out = tmp_path / "out"
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table
    assert "| SE-SNN   | end of the loop, fine-tuned" in table and "| VIBNet    | 0.83" in table
    assert (out / "pruning.png").read_bytes().startswith(b"\x89PNG")
    found = results(tmp_path)
    assert found["study"] == "stochastic-pruning" and found["settings"]["width"] == 0.3
    assert {"nvrm_fast", "torch", "device", "threads"} <= found["versions"].keys()
    assert [(run["method"], run["seed"]) for run in found["runs"]] == [
        (method, seed) for method in ("baseline", "SE-SNN") for seed in (0, 1)
    ]
    for run in found["runs"]:
        points = run["points"]
        assert points[-1]["multiplications"] <= 0.2 * points[0]["multiplications"]
        assert (run["log_sigma"]["firing"] is None) == (run["method"] == "baseline")


def test_a_sweep_is_recorded_and_goes_on(options, tmp_path, monkeypatch):
    options += ["--methods", "SE-SNN"]
    assert command.main(["stochastic-pruning", *options]) == 0
    made = []
    one_run = study.one_run
    monkeypatch.setattr(study, "one_run", lambda *a, **more: made.append(more["weight"]) or one_run(*a, **more))
    first = results(tmp_path)["runs"]
    assert command.main(["stochastic-pruning", *options, *"--weights 1e-4 0.01 --margins 4 0".split()]) == 0
    assert made == [1e-4, 0.01, 0.01]
    assert results(tmp_path)["runs"][0] == first[0]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| weight | b = 4.00" in table and "SE-SNN, weight 0.01, b = 0.00" in table
    path = tmp_path / "out" / FILE
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert command.main(["stochastic-pruning", *options, *"--weights 1e-4 0.01 --margins 4 0".split()]) == 0
    assert made[3:] == [0.01]


@pytest.mark.parametrize("network", ["mlp", "vgg16", "vgg16-convolutional"])
def test_the_other_networks(network, options, tmp_path):
    width = "0.3" if network == "mlp" else "0.04"
    more = f"--network {network} --width {width} --noise-rate 0.4 --at-once 0.5 --methods SE-SNN".split()
    assert command.main(["stochastic-pruning", *options, *more]) == 0
    (run,) = results(tmp_path)["runs"]
    assert run["points"][-1]["multiplications"] <= 0.2 * run["points"][0]["multiplications"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "40 % of the training labels flipped" in table


def test_presets():
    assert {"quick", "full", "tiny"} == PruningSettings.PRESETS.keys()
    full = PruningSettings(**PruningSettings.PRESETS["full"])
    assert (full.data, full.at_once, full.weights, full.margins) == ("mnist", 0.0, (1e-4,), (4.0,))


def test_the_smallest_network_within_the_tolerance():
    errors = [(100, 0.10), (90, 0.05), (50, 0.111), (40, 0.109), (30, 0.2)]
    points = [{"multiplications": m, "validation_error": e} for m, e in errors]
    assert tables.at({"points": points}, tables.WITHIN, 0.01)["multiplications"] == 40
    assert tables.at({"points": points}, tables.WITHIN, 0.02)["multiplications"] == 40
    assert tables.at({"points": points}, tables.WITHIN, 0.1)["multiplications"] == 30


@pytest.mark.parametrize(
    "given, says",
    [
        ("--target 1", "--target is 1.0: choose more than 0 and less than 1"),
        ("--weights -1", "--weights is (-1.0,): choose 0 or more for each"),
        ("--margins inf", "--margins is (inf,): choose a finite number for each"),
        ("--at-once 1", "--at-once is 1.0"),
        ("--network lenet5 --data mnist --data-dir nowhere", "--data mnist is missing"),
    ],
)
def test_wrong_options_end_with_status_2_and_the_remedy(given, says, options, capsys):
    assert command.main(["stochastic-pruning", *options, *given.split()]) == 2
    assert f"error: {says}" in capsys.readouterr().err
