"""The re-identification study from the command line, at its smallest, and stopped and gone on with."""

import json

import pytest
import torch

from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments import data
from nvrm_fast.experiments.record import FILE
from nvrm_fast.experiments.stochastic.reid import market1501, runs, views
from nvrm_fast.experiments.stochastic.reid.methods import METHODS


@pytest.fixture
def options(mnist, tmp_path):
    return f"--preset tiny --data mnist --data-dir {mnist} --out {tmp_path / 'out'}".split()


def test_the_small_task(mnist, tmp_path):
    source = data.load("mnist", mnist)
    views.write(tmp_path / "one", source, identities=5, test_identities=4)
    task = market1501.read(tmp_path / "one")
    assert len(task.train) == 5 * 6 * 2 and len(task.query) == 4 * 6
    assert set(task.train.identities.tolist()).isdisjoint(task.query.identities.tolist())
    identities = task.gallery.identities.tolist()
    counts = {identity: identities.count(identity) for identity in identities}
    assert counts == {-1: 2, 0: 4, **dict.fromkeys(task.query.identities.tolist(), 6)}
    assert set(task.train.cameras.tolist()) == {1, 2, 3, 4, 5, 6}
    poor = (tmp_path / "one" / views.POOR_LIST).read_text().split()
    names = {path.name for part in (task.train, task.query, task.gallery) for path in part.paths}
    assert poor and set(poor) < names
    views.write(tmp_path / "two", source, identities=5, test_identities=4)
    again = market1501.read(tmp_path / "two")
    size = (views.SIZE, views.SIZE)
    assert torch.equal(market1501.decode(task.train.paths, size), market1501.decode(again.train.paths, size))


def test_a_whole_study_and_one_that_goes_on(options, tmp_path, capsys, monkeypatch):
    state, out = torch.get_rng_state(), tmp_path / "out"
    assert command.main(["stochastic-reid", *options]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and all(f"| {name} " in table for name in METHODS)
    for name in ("scores.png", "sigma.png", "pictures.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    rows = json.loads((out / "results.json").read_text())["runs"]
    assert len(rows) == 2 * len(METHODS) and len({row["weights"] for row in rows}) == 1
    for row in rows:
        assert 0 <= row["mAP"] <= 1 and row["rank1"] <= row["rank5"] <= row["rank10"]
        assert (row["memorized"] is None) == (row["strength"] == 0)
        assert ("sigma" in row) == METHODS[row["method"]].stochastic

    lines = (out / FILE).read_text().splitlines()
    assert len(lines) == 1 + 1 + 2 * len(METHODS)  # settings, the most similar pictures, runs
    (out / FILE).write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])  # killed while it wrote a line
    monkeypatch.setattr(runs.stages, "first_stage", lambda *given: pytest.fail("trained again"))
    assert command.main(["stochastic-reid", *options]) == 0
    after = json.loads((out / "results.json").read_text())["runs"]
    for row in (*rows, *after):
        row.pop("seconds")
    assert after == rows

    (out / FILE).unlink()
    monkeypatch.undo()
    trained = []
    first_stage = runs.stages.first_stage
    monkeypatch.setattr(runs.stages, "first_stage", lambda *given: trained.append(1) or first_stage(*given))
    more = ["--methods", "SE-SNN", "--strengths", "0", "--weight", "1"]
    assert command.main(["stochastic-reid", *options, *more]) == 0
    assert not trained  # the first stage has no regularizer
    (out / FILE).unlink()
    assert command.main(["stochastic-reid", *options, *more, "--iterations", "2"]) == 0
    assert trained  # networks of other settings are not taken


def test_a_folder_in_the_official_layout(mnist, tmp_path):
    views.write(tmp_path / "market", data.load("mnist", mnist), identities=4, test_identities=3)
    (tmp_path / "market" / views.POOR_LIST).unlink()  # the benchmark has none
    out = tmp_path / "out"
    options = f"--preset tiny --market {tmp_path / 'market'} --methods SE-SNN --size 32 16 --strengths 0.5 --out {out}"
    assert command.main(["stochastic-reid", *options.split()]) == 0
    (row,) = json.loads((out / "results.json").read_text())["runs"]
    assert set(row["sigma"]) == {"right", "wrong"} and row["log_sigma"]["wrong"] is not None
    assert not list(out.glob("views*"))


@pytest.mark.parametrize(
    "given, says",
    [
        ("--preset paper", "--preset paper is of Market-1501"),
        ("--preset paper --market somewhere", "--preset paper starts from ImageNet's weights"),
        ("--weights some.pth", "--weights some.pth are of ResNet-50"),
        ("--market nowhere", "--market nowhere lacks pictures in bounding_box_train"),
        ("--strengths 1", "--strengths is (1.0,)"),
        ("--size 8 8", "--size is (8, 8)"),
        ("--identities 300", "--identities 300 and --test-identities 3 are too many for the 260 images"),
    ],
)
def test_wrong_options_end_with_status_2_and_the_remedy(options, given, says, capsys):
    assert command.main(["stochastic-reid", *options, *given.split()]) == 2
    assert f"error: {says}" in capsys.readouterr().err
