"""The re-identification study from the command line, at its smallest, and stopped and gone on with."""

import json
import shutil

import market_files
import pytest
import torch

from studies import StudyError
from studies import __main__ as command
from studies.record import FILE
from studies.stochastic.methods import BASELINE, METHODS, SE_SNN
from studies.stochastic.reid import stages
from studies.stochastic.reid.study import Reid
from studies.tables import paired


@pytest.fixture
def market(tmp_path):
    return market_files.write_market(tmp_path / "market")


@pytest.fixture
def options(market, tmp_path):
    return f"--preset tiny --size 24 24 --market {market} --out {tmp_path / 'out'}".split()


def rows_of(out):
    rows = json.loads((out / "results.json").read_text())["rows"]
    for row in rows:
        row.pop("seconds")
    return rows


def test_a_whole_study_and_one_that_goes_on(options, tmp_path, capsys, monkeypatch):
    state, out = torch.get_rng_state(), tmp_path / "out"
    options += ["--networks", str(tmp_path / "networks")]
    assert command.main(["stochastic-reid", *options]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and all(f"| {name} " in table for name in METHODS)
    assert {path.name for path in out.glob("*.png")} == {"scores.png", "sigma.png", "pictures.png"}
    rows = rows_of(out)
    assert len(rows) == 2 * len(METHODS) and len({row["weights"] for row in rows}) == 1
    for row in rows:
        assert 0 <= row["mAP"] <= 1 and row["rank1"] <= row["rank5"] <= row["rank10"]
        assert (row["memorized"] is None) == (row["strength"] == 0)
        assert ("sigma" in row) == METHODS[row["method"]].stochastic
    # Those of right labels and of wrong ones by four losses, and the most similar pictures.
    assert len(list((tmp_path / "networks").glob("*.pt"))) == 2 * 4 + 1

    lines = (out / FILE).read_text().splitlines()
    (out / FILE).write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])  # killed while it wrote a line
    trained, first_stage = [], stages.first_stage
    monkeypatch.setattr(stages, "first_stage", lambda *given: trained.append(1) or first_stage(*given))
    assert command.main(["stochastic-reid", *options]) == 0
    assert rows_of(out) == rows and not trained

    shutil.rmtree(out)
    more = ["--methods", "SE-SNN", "--strengths", "0", "--weight", "1"]
    assert command.main(["stochastic-reid", *options, *more]) == 0
    assert not trained  # the first stage has no regularizer
    shutil.rmtree(out)
    assert command.main(["stochastic-reid", *options, *more, "--iterations", "2"]) == 0
    assert trained  # networks of other settings are not taken


def some_rows(settings):
    for number, cell in enumerate(settings.cells()):
        row = cell | dict.fromkeys(("mAP", "rank1", "rank5", "rank10", "train"), (5 + number**2) / 1000)
        row |= {"memorized": None if cell["strength"] == 0 else 0.5, "seconds": 1.0, "weights": 100, "trained": 10}
        if cell["method"] == SE_SNN:
            wrong = None if cell["strength"] == 0 else 2.0 + cell["seed"]
            row |= {"sigma": {"right": 1.0, "wrong": wrong}, "loudest": [3, 1], "calmest": [0, 2]}
        yield row


def test_the_tables_and_the_figures_show_the_rows(market):
    settings = Reid(market=str(market), strengths=(0.0, 0.2), seeds=2)
    rows = list(some_rows(settings))
    made = settings.report(rows)
    by = {(row["method"], row["strength"], row["seed"]): row["mAP"] for row in rows}
    gain = paired([by[SE_SNN, 0.2, seed] for seed in (0, 1)], [by[BASELINE, 0.2, seed] for seed in (0, 1)])
    assert gain in made.text and "| SE-SNN | 20 %         | 1.000 ± 0.000 | 2.500 ± 0.707 |" in made.text
    precision, rank = made.figures["scores.png"].axes
    assert precision.get_title("left") == "Mean average precision" and rank.get_title("left") == "Rank 1"
    lines = {line.get_label(): line for line in precision.lines}
    expected = [50 * (by[SE_SNN, strength, 0] + by[SE_SNN, strength, 1]) for strength in (0.0, 0.2)]
    assert lines[SE_SNN].get_ydata() == pytest.approx(expected)
    (sigma,) = made.figures["sigma.png"].axes
    assert [bar.get_height() for bar in sigma.patches] == [1.0, 2.5]
    assert [tick.get_text() for tick in sigma.get_xticklabels()] == ["20 %"]
    pictures = made.figures["pictures.png"].axes
    assert len(pictures) == 4 and [panel.get_ylabel() for panel in pictures[::2]] == ["largest sigma", "smallest sigma"]
    # Where the data set is gone there are no pictures.
    elsewhere = Reid(market="nowhere", strengths=(0.0, 0.2), seeds=2).report(rows)
    assert elsewhere.text == made.text and list(elsewhere.figures) == ["scores.png", "sigma.png"]


def test_the_paper_s_preset_waits_for_its_data_and_weights(market, capsys, tmp_path):
    paper = Reid(**Reid.presets["paper"])
    assert (paper.network, paper.size, paper.iterations, paper.lr) == ("resnet50", (256, 128), 60_000, 3.5e-4)
    for given, says in (
        ("", "--market is missing: name the folder"),
        (f"--market {market}", "--preset paper starts from ImageNet's weights"),
        (f"--market {market} --weights nowhere.pth", "--weights nowhere.pth is missing"),
        (f"--market {market} --network small --weights some.pth", "--weights some.pth are of ResNet-50"),
        (f"--market {tmp_path} --weights random", f"--market {tmp_path} lacks pictures in bounding_box_train"),
    ):
        options = f"--preset paper --out {tmp_path / 'out'} {given}".split()
        assert command.main(["stochastic-reid", *options]) == 2
        assert f"error: {says}" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"strengths": (1.0,)}, {"size": (8, 8)}, {"batch_size": 1}])
def test_settings_out_of_range(wrong):
    name = next(iter(wrong)).replace("_", "-")
    with pytest.raises(StudyError, match=f"--{name} is"):
        Reid(**wrong)
