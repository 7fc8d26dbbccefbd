"""The studies of the NVRM paper that train classifiers: grids and commands."""

import json

import pytest

from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments import report
from nvrm_fast.experiments.optimizers import NVRM_SGD, PERTURBED_SGD, SGD
from nvrm_fast.experiments.record import FILE
from nvrm_fast.experiments.variability import generalization, scales
from nvrm_fast.experiments.variability.grid import cell, run_grid

STUDIES = ("generalization", "denoising", "noise-type", "gradient-noise")


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_runs_and_goes_on_where_it_was(study, mnist, tmp_path, capsys):
    out = tmp_path / "out"
    options = [study, "--preset", "tiny", "--data", "mnist", "--data-dir", str(mnist), "--out", str(out)]
    assert command.main(options) == 0
    first = json.loads((out / "results.json").read_text())
    figures = [path.read_bytes() for path in out.glob("*.png")]
    assert len(figures) == 1 and figures[0].startswith(b"\x89PNG")
    table = (out / "table.md").read_text()
    assert all(one["place"]["optimizer"] in table for one in first["results"]) and table in capsys.readouterr().out
    # A kill leaves half a line; the runs before it stay, the others are made again.
    whole = (out / FILE).read_text().splitlines(keepends=True)
    (out / FILE).write_text("".join(whole[:2]) + whole[2][:30])
    assert command.main(options) == 0
    assert capsys.readouterr().out.count("test ") >= len(whole) - 2
    assert without_clock(json.loads((out / "results.json").read_text())) == without_clock(first)


def without_clock(content):
    for one in content["results"]:
        for run in one["runs"]:
            del run["seconds"]
    return content


def test_processes_give_the_same_numbers(mnist, tmp_path):
    numbers = []
    for workers in (1, 2):
        chosen = generalization.GeneralizationSettings(
            preset="tiny", data="mnist", data_dir=str(mnist), network="mlp", width=4, epochs=2, seeds=1, workers=workers
        )
        folder = report.output_folder(str(tmp_path / str(workers)))
        cells = [cell(chosen, name, noise_rate=0.4) for name in (SGD, NVRM_SGD)]
        results = run_grid("generalization", folder, chosen, cells)
        numbers.append([(one.last("test_accuracy"), one.runs[0].train_loss) for one in results])
    assert numbers[0] == numbers[1] and numbers[0][0] != numbers[0][1]


def test_grids_cover_what_the_paper_shows():
    vgg = generalization.GeneralizationSettings(**generalization.GeneralizationSettings.PRESETS["paper"])
    assert (vgg.network, vgg.momentum, vgg.noise_rate) == ("vgg16", 0.0, 0.0)
    rates = scales.GradientNoiseSettings(**scales.GradientNoiseSettings.PRESETS["paper"])
    assert rates.rates == (0.1, 0.3, 1.0, 3.0) and rates.drops == [60, 120, 180, 240]
    lines = scales.DenoisingSettings(**scales.DenoisingSettings.PRESETS["quick"]).cells()
    assert {name for name, _, _ in lines} == {SGD, NVRM_SGD, PERTURBED_SGD}
    assert all(one.settings.noise_rate == 0.4 and one.settings.variability == (b or 0.0) for _, b, one in lines)
