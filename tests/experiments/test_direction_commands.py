"""The studies of direction noise from the command line, at their smallest, and stopped and gone on with."""

import json

import official_files
import pytest
import torch

from nvrm_fast.experiments import StudyError
from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments.direction import fit, mean_weights, noise_table, variational
from nvrm_fast.experiments.direction.noise_table import TableSettings
from nvrm_fast.experiments.record import FILE, Record

COMMANDS = {
    "direction-tables": ("table.md", "kinds.png"),
    "direction-variational": ("table.md", "figure6-variational.png", "figure6-variational-reverse.png"),
    "direction-mean-weights": ("table.md", "figure3.png", "accuracy.png"),
    "direction-gradients": ("table.md", "gradients.png"),
}


@pytest.fixture
def options(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    official_files.write_mnist(folder, size=16)
    return f"--preset tiny --data mnist --data-dir {folder} --out {tmp_path / 'out'}".split()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_whole_study(name, options, tmp_path, capsys):
    state = torch.get_rng_state()
    assert command.main([name, *options]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    out = tmp_path / "out"
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table
    results = json.loads((out / "results.json").read_text())
    assert results["study"] == name and results["settings"]["preset"] == "tiny"
    assert {"nvrm_fast", "torch", "device", "threads"} <= results["versions"].keys() and results["runs"]
    for file in COMMANDS[name]:
        assert (out / file).stat().st_size > 0
        if file.endswith(".png"):
            assert (out / file).read_bytes().startswith(b"\x89PNG")


def test_the_angles(tmp_path, capsys):
    assert command.main(["direction-angles", "--preset", "tiny", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["rows"]) == 32 and results["settings"]["draws"] == 400
    assert all((tmp_path / f"figure{number}.png").read_bytes().startswith(b"\x89PNG") for number in (11, 12, 13, 14))


def test_a_stopped_study_goes_on_where_it_was(options, tmp_path, monkeypatch):
    options += ["--kinds", "none", "rot-n@local"]
    assert command.main(["direction-tables", *options]) == 0
    path, out = tmp_path / "out" / FILE, tmp_path / "out"
    lines, before = path.read_text().splitlines(), json.loads((out / "results.json").read_text())
    assert len(lines) == 1 + 3 + 4  # settings, three strengths tried, two kinds at two sizes
    path.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])  # killed while it wrote a line
    trained = []
    train = fit.train
    monkeypatch.setattr(noise_table.fit, "train", lambda *given, **more: trained.append(1) or train(*given, **more))
    assert command.main(["direction-tables", *options]) == 0
    assert len(trained) == 2
    after = json.loads((out / "results.json").read_text())
    for run in (*before["runs"], *after["runs"]):
        run.pop("seconds")
    assert after["runs"] == before["runs"]
    assert command.main(["direction-tables", *options, "--seeds", "2"]) == 0  # more seeds keep the first
    assert len(trained) == 2 + 4


def test_runs_of_other_settings_are_not_mixed(tmp_path):
    first = TableSettings(epochs=1)
    assert Record(tmp_path, "x", first).run({"seed": 0}, lambda: {"a": [1.5]}) == {"a": [1.5]}
    again = Record(tmp_path, "x", TableSettings(epochs=1, seeds=9))
    assert again.run({"seed": 0}, lambda: pytest.fail("ran again")) == {"a": [1.5]}
    with pytest.raises(StudyError, match=r"other settings \(epochs\)"):
        Record(tmp_path, "x", TableSettings(epochs=2))
    with pytest.raises(StudyError, match=r"other settings \(study\)"):
        Record(tmp_path, "y", first)


def test_presets_and_what_overrides_them():
    parser = command.build_parser()
    settings_of = noise_table.settings.from_arguments
    for name, sizes, data in (("quick", (500, 1000), "mnist-5000"), ("full", (1000, 5000, 10000, 50000), "mnist")):
        chosen = settings_of(parser.parse_args(["direction-tables", "--preset", name]), TableSettings)
        assert (chosen.sizes, chosen.data) == (sizes, data)
    given = parser.parse_args("direction-tables --preset full --epochs 3 --sizes 20 30".split())
    chosen = settings_of(given, TableSettings)
    assert (chosen.epochs, chosen.sizes, chosen.hidden) == (3, (20, 30), (1024, 1024, 2048))
    for kind in (mean_weights.MeanSettings, variational.VariationalSettings):
        assert {"quick", "full", "tiny"} == kind.PRESETS.keys()
        assert all(kind(**preset) for preset in kind.PRESETS.values())


@pytest.mark.parametrize(
    "options, says",
    [
        ("direction-tables --kinds none nothing", "--kinds is 'nothing': choose one of none, gauss-input"),
        ("direction-tables --sizes 5", "--sizes is (5,): choose 10 or more"),
        ("direction-tables --sizes 201", "--sizes 201 is more than the 200 training images"),
        ("direction-gradients --batches 500", "--batches 500 is more than the 200 training images"),
        ("direction-mean-weights --alphas 0", "--alphas is (0.0,)"),
        ("direction-variational --warm-up 2", "--warm-up is 2.0: choose from 0 to 1"),
        ("direction-tables --data mnist --data-dir nowhere", "--data mnist is missing"),
    ],
)
def test_wrong_options_end_with_status_2_and_the_remedy(options, says, tmp_path, capsys):
    official_files.write_mnist(tmp_path)
    name, *rest = options.split()
    more = f"--preset tiny --data mnist --data-dir {tmp_path} --out {tmp_path / 'out'}".split()
    try:
        assert command.main([name, *more, *rest]) == 2
    except SystemExit as refused:  # argparse's own refusal of a choice
        assert refused.code == 2 and "invalid choice" in capsys.readouterr().err
        return
    assert f"error: {says}" in capsys.readouterr().err
