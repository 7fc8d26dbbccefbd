"""The studies of the NVRM paper that train classifiers at several scales: their cells, tables and figures."""

import itertools
import json
import statistics

import pytest

from studies import __main__ as command
from studies import runner, tables
from studies.optimizers import ADAM, IVON, NVRM_SGD, PERTURBED_SGD, SAM, SGD
from studies.study import Context

NAMES = ("generalization", "denoising", "noise-type", "gradient-noise")


def study_of(name):
    return runner.study_of(name, command.STUDIES[name][0])


def settings_of(name, preset, **more):
    study = study_of(name)
    return study(**(study.presets[preset] | more))


def rows_of(settings, name):
    """Rows whose numbers tell their cells apart: accuracies of two epochs, rising with every cell."""
    rows = []
    for number, cell in enumerate(settings.cells()):
        better = number / (200 + 10 * cell["seed"])
        test = [0.5 + better, 0.6 + better]
        rows.append(
            cell
            | {"test_accuracy": test, "train_accuracy": [0.9, 0.9], "memorized": [0.3, number / 100]}
            | {"seconds": [1.0, 1.0], "state_bytes_a_parameter": 4.0}
        )
    return rows


def means(rows, value, **where):
    mine = [value(row) for row in tables.select(rows, **where)]
    return 100 * sum(mine) / len(mine)


@pytest.mark.parametrize("name", NAMES)
def test_every_study_runs_from_the_command_line(name, mnist, tmp_path, capsys):
    out = tmp_path / "out"
    options = f"--preset tiny --data mnist --data-dir {mnist} --seeds 2 --out {out}".split()
    assert command.main([name, *options]) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    table = (out / "table.md").read_text()
    assert all(row["optimizer"] in table for row in rows) and table in capsys.readouterr().out
    assert "Paired by seeds" in table and "nan" not in table
    assert len(list(out.glob("*.png"))) == 1
    # A setting that only says which cells there are may be extended.
    more = {"gradient-noise": ["--lr", "0.03", "0.1"]}.get(name, ["--variability", "0.02", "0.05"])
    assert command.main([name, *options, *more]) == 0
    after = json.loads((out / "results.json").read_text())["rows"]
    assert len(after) > len(rows) and all(row in after for row in rows)


def test_grids_cover_what_the_paper_shows():
    vgg = settings_of("generalization", "paper")
    assert (vgg.network, vgg.momentum, vgg.noise_rate, vgg.data) == ("vgg16", 0.0, 0.0, "cifar10")
    rates = settings_of("gradient-noise", "paper")
    assert rates.lr == (0.1, 0.3, 1.0, 3.0) and rates.drops == [60, 120, 180, 240]
    denoising = settings_of("denoising", "quick")
    assert denoising.noise_rate == 0.4 and denoising.seeds == 3
    places = [(cell["optimizer"], cell["variability"]) for cell in denoising.cells()]
    assert len(places) == 3 * 2 * 5 and set(places) == {
        (SGD, 0.0),
        *((NVRM_SGD, b) for b in (0.02, 0.05)),
        *((PERTURBED_SGD, b) for b in (0.1, 0.5)),
    }
    noises = settings_of("noise-type", "paper")
    assert {cell["noise"] for cell in noises.cells()} == {None, "gaussian", "uniform", "laplace"}


@pytest.mark.parametrize("name", ("label-noise", *NAMES[1:]))
def test_wrong_labels_are_learned_at_both_weight_decays(name):
    """How much SGD memorizes depends on it; long has the seeds that a conclusion needs."""
    long = settings_of(name, "long")
    assert (long.epochs, long.seeds, long.drops) == (36, 5, [12, 24])
    cells = list(long.cells())
    places = tables.groups(cells, *(key for key in cells[0] if key not in ("weight_decay", "seed")))
    for runs in places.values():
        assert [run["weight_decay"] for run in runs] == [1e-4, 1e-2] * 5
    assert {0.02, 0.03, 0.05} <= {cell["variability"] for cell in cells if cell["optimizer"] == NVRM_SGD}
    assert {cell["weight_decay"] for cell in settings_of(name, "paper").cells()} == {1e-4}


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_trained_with_its_own_settings(name, monkeypatch):
    seen = []
    monkeypatch.setattr("studies.variability.training.corrupt", lambda data, kind, rate, seed: (kind, rate, seed))
    monkeypatch.setattr("studies.variability.training.train", lambda *given, **more: seen.append(given) or {})
    settings = settings_of(name, "quick")
    context = Context(settings, None, None)
    for cell in settings.cells():
        settings.run(context, **cell)
        problem, used, optimizer, seed = seen.pop()
        assert problem == ("asymmetric", 0.0 if name == "generalization" else 0.4, seed)
        assert (optimizer, seed) == (cell["optimizer"], cell["seed"])
        assert used.lr == cell.get("lr", 0.03) and used.variability == cell.get("variability", 0.05)
        assert used.noise == (cell.get("noise") or "gaussian") and used.epochs == 24
        assert used.weight_decay == cell.get("weight_decay", 1e-4)  # generalization has but the paper's


def test_the_figure_of_generalization():
    settings = settings_of("generalization", "quick", seeds=2, epochs=2)
    rows = rows_of(settings, "generalization")
    made = settings.report(rows)
    (figure,) = made.figures.values()
    left, right = figure.axes
    assert (left.get_title("left"), right.get_title("left")) == ("Generalization gap", "Test accuracy")
    labels = [SGD, "NVRM-SGD, b = 0.02", "NVRM-SGD, b = 0.05", ADAM, SAM, IVON]
    for panel, value in (
        (left, lambda row: row["train_accuracy"][-1] - row["test_accuracy"][-1]),
        (right, lambda row: row["test_accuracy"][-1]),
    ):
        lines = {line.get_label(): line.get_ydata() for line in panel.lines if not line.get_label().startswith("_")}
        assert list(lines) == labels and panel.get_xlabel() == "epoch"
        for (optimizer, b), label in zip(((SGD, 0.0), (NVRM_SGD, 0.02), (NVRM_SGD, 0.05)), labels):
            assert lines[label][-1] == pytest.approx(means(rows, value, optimizer=optimizer, variability=b))
    assert len({line.get_color() for line in left.lines if not line.get_label().startswith("_")}) == 6
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels


@pytest.mark.parametrize(
    "name, levels, lines",
    [
        ("denoising", [SGD], [NVRM_SGD, PERTURBED_SGD]),
        ("noise-type", [SGD], ["NVRM gaussian", "NVRM uniform", "NVRM laplace"]),
        ("gradient-noise", [], [SGD, "NVRM-SGD, b = 0.05"]),
    ],
)
def test_the_figures_against_a_scale(name, levels, lines):
    settings = settings_of(name, "quick", seeds=2, weight_decay=(1e-4, 1e-2))
    rows = rows_of(settings, name)
    made = settings.report(rows)
    (figure,) = made.figures.values()
    scale = "lr" if name == "gradient-noise" else "variability"
    headings = (
        ("Test error, last 3 epochs", lambda row: 1 - statistics.fmean(row["test_accuracy"][-3:])),
        ("Wrong labels memorized", lambda row: row["memorized"][-1]),
    )
    assert len(figure.axes) == 4
    for panel, (decay, (heading, value)) in zip(figure.axes, itertools.product((1e-4, 1e-2), headings)):
        assert panel.get_title("left") == f"{heading}, weight decay {decay:g}" and panel.get_xscale() == "log"
        assert panel.get_xlabel() == ("b" if scale == "variability" else "learning rate at the start")
        drawn = {container.get_label(): container.lines[0] for container in panel.containers}
        assert list(drawn) == lines
        # The first line with a scale: its points are the means over the seeds.
        where = {"noise": "gaussian"} if name == "noise-type" else {"optimizer": lines[0]}
        where["weight_decay"] = decay
        expected = [
            (key, means(rows, value, **where, **{scale: key}))
            for key in dict.fromkeys(row[scale] for row in tables.select(rows, **where))
        ]
        found = list(zip(drawn[lines[0]].get_xdata(), drawn[lines[0]].get_ydata()))
        assert list(itertools.chain(*found)) == pytest.approx(list(itertools.chain(*expected)))
        for level in levels:
            (line,) = [line for line in panel.lines if line.get_label() == level]
            assert line.get_ydata()[0] == pytest.approx(means(rows, value, optimizer=SGD, weight_decay=decay))
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {*levels, *lines}


@pytest.mark.parametrize(
    "name, where, at_same",
    [
        ("gradient-noise", {"optimizer": NVRM_SGD, "weight_decay": 1e-2, "lr": 0.3}, {"lr": 0.3}),
        ("denoising", {"optimizer": PERTURBED_SGD, "weight_decay": 1e-2, "variability": 0.5}, {}),
    ],
)
def test_differences_are_from_sgd_at_the_same_seeds(name, where, at_same):
    settings = settings_of(name, "quick", seeds=2, weight_decay=(1e-4, 1e-2))
    rows = rows_of(settings, name)
    last = settings.report(rows).text.splitlines()[-1]
    ours, base = (
        [row["test_accuracy"][-1] for row in tables.select(rows, **chosen)]
        for chosen in (where, {"optimizer": SGD, "weight_decay": 1e-2} | at_same)
    )
    assert [cell.strip() for cell in last.split("|")[-3:-1]] == [where["optimizer"], tables.paired(ours, base)]


@pytest.mark.parametrize(
    "options, says",
    [
        (
            "denoising --psgd-variability -0.1",
            "--psgd-variability is (-0.1,): Input should be greater than or equal to 0",
        ),
        ("gradient-noise --lr 0", "--lr is (0.0,): Input should be greater than 0"),
        ("noise-type --noise-rate 1", "--noise-rate is 1.0: Input should be less than 1"),
        ("generalization --variability", "--variability is (): Value error, give one or more"),
    ],
)
def test_wrong_options_end_with_status_2(options, says, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        command.main([*options.split(), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2 and says in capsys.readouterr().err and not (tmp_path / "out").exists()
