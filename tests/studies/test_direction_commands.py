"""The studies of direction noise from the command line, at their smallest; stopped and gone on with; their reports."""

import json
import math

import numpy as np
import official_files
import pytest
import torch

from studies import StudyError, tables
from studies import __main__ as command
from studies.direction import angles, gradient_variance, mean_weights, noise_table, training, variational
from studies.record import FILE

STUDIES = {
    "direction-tables": (noise_table.NoiseTable, {"kinds.png"}),
    "direction-variational": (
        variational.VariationalModel,
        {f"figure6-{model}.png" for model in variational.MODELS[2:]},
    ),
    "direction-mean-weights": (mean_weights.MeanWeights, {"figure3.png", "accuracy.png", "figure4-1.png"}),
    "direction-gradients": (gradient_variance.GradientVariance, {"gradients.png"}),
    "direction-angles": (angles.Angles, {f"figure{number}.png" for number in (11, 12, 13, 14)}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    official_files.write_mnist(folder, size=16)
    return folder


@pytest.fixture
def options(folder, tmp_path):
    return f"--preset tiny --data mnist --data-dir {folder} --out {tmp_path / 'out'}".split()


@pytest.fixture(scope="module")
def outcome(folder, tmp_path_factory):
    """Folder, settings and rows of a study's tiny preset; each study is run once for all tests."""
    known = {}

    def of(name):
        if name not in known:
            out = tmp_path_factory.mktemp("runs") / "out"
            images = f"--data mnist --data-dir {folder}".split() if name != "direction-angles" else []
            state = torch.get_rng_state()
            assert command.main([name, "--preset", "tiny", *images, "--out", str(out)]) == 0
            assert torch.equal(torch.get_rng_state(), state)
            content = json.loads((out / "results.json").read_text())
            known[name] = out, STUDIES[name][0](**content["settings"]), content["rows"]
        return known[name]

    return of


@pytest.mark.parametrize("name", STUDIES)
def test_a_whole_study(name, outcome):
    out, _, rows = outcome(name)
    assert rows and "nan" not in (out / "table.md").read_text()
    images = {path.name for path in out.glob("*.png")}
    # Whether the smallest network gets an image wrong that its ensemble gets right is chance.
    assert images == STUDIES[name][1] or images | {"figure4-1.png"} == STUDIES[name][1]


def test_a_stopped_study_goes_on_where_it_was(options, tmp_path, monkeypatch):
    options += ["--kinds", "none", "rot-n@local"]
    assert command.main(["direction-tables", *options]) == 0
    path, out = tmp_path / "out" / FILE, tmp_path / "out"
    lines, before = path.read_text().splitlines(), json.loads((out / "results.json").read_text())
    assert len(lines) == 1 + 3 + 4  # settings, three strengths tried, two kinds at two sizes
    path.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])  # killed while it wrote a line
    trained = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda *given, **more: trained.append(1) or train(*given, **more))
    assert command.main(["direction-tables", *options]) == 0
    assert len(trained) == 2
    after = json.loads((out / "results.json").read_text())
    for row in (*before["rows"], *after["rows"]):
        row.pop("seconds")
    assert after["rows"] == before["rows"]
    assert command.main(["direction-tables", *options, "--seeds", "2"]) == 0  # more seeds keep the first
    assert len(trained) == 2 + 4


def test_presets():
    for study, _ in STUDIES.values():
        assert all(study(**preset) for preset in study.presets.values())
    paper = noise_table.NoiseTable(**noise_table.NoiseTable.presets["paper"])
    assert (paper.sizes, paper.data, paper.hidden) == ((1000, 5000, 10000, 50000), "mnist", (1024, 1024, 2048))
    assert (paper.epochs, paper.samples, paper.search) == (200, 50, "each")


@pytest.mark.parametrize(
    "options, says",
    [
        ("direction-tables --sizes 201", "--sizes 201 is more than the 200 training images"),
        ("direction-gradients --batches 500", "--batches 500 is more than the 200 training images"),
    ],
)
def test_more_images_than_there_are(options, says, folder, tmp_path, capsys):
    name, *rest = options.split()
    more = f"--preset tiny --data mnist --data-dir {folder} --out {tmp_path / 'out'}".split()
    assert command.main([name, *more, *rest]) == 2
    assert f"error: {says}" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings, name, value",
    [
        (noise_table.NoiseTable, "sizes", (5,)),
        (noise_table.NoiseTable, "kinds", ("nothing",)),
        (noise_table.NoiseTable, "hidden", ()),
        (gradient_variance.GradientVariance, "batches", (1,)),
        (mean_weights.MeanWeights, "alphas", (0.0,)),
        (variational.VariationalModel, "warm_up", 2.0),
        (angles.Angles, "dimensions", 1),
    ],
)
def test_wrong_settings_name_the_option(settings, name, value):
    with pytest.raises(StudyError) as refused:
        settings(**{name: value})
    assert str(refused.value).startswith(f"--{name.replace('_', '-')} is {value}: ")


def test_the_strength_with_the_best_mean_is_chosen():
    scores = {(0.1,): (0.5, 0.7), (0.3,): (0.6, 0.6), (1.0,): (0.9, 0.2)}
    rows = [{"strength": list(strength), "ensemble": score} for strength, both in scores.items() for score in both]
    assert noise_table.best(rows) == (0.1,)  # the milder of two alike
    assert noise_table.best(rows[2:]) == (0.3,) and noise_table.best([]) == ()


def test_the_tables_of_kinds(outcome):
    _, settings, rows = outcome("direction-tables")
    made = settings.report(rows)
    assert made.found["strengths"][0] == {"kind": "none", "size": 60, "strength": []}
    local = tables.select(rows, what="test", kind="rot-n@local", size=60)
    table2 = made.text.split("direction noise local")[1].split("\n\n")[1].splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (table2[0], table2[2]))))
    assert cells["training images"] == "60" and cells["Rot N"] == tables.percent([row["ensemble"] for row in local])
    first, second = made.figures["kinds.png"].axes
    assert [panel.get_title("left") for panel in (first, second)] == ["60 training images", "100 training images"]
    assert [label.get_text() for label in first.get_yticklabels()][:4] == [
        "No reg",
        "Gauss inp",
        "Gauss weight",
        "Rot N, signal",
    ]
    (points,) = [line for line in first.lines if line.get_marker() == "." and list(line.get_ydata()) == [4]]
    assert points.get_xdata() == pytest.approx([100 * row["ensemble"] for row in local])
    (legend,) = made.figures["kinds.png"].legends
    assert "direction, on the weights, flipout" in [text.get_text() for text in legend.get_texts()]


def test_the_figures_of_gradients(outcome):
    _, settings, rows = outcome("direction-gradients")
    start, trained = settings.report(rows).figures["gradients.png"].axes
    assert (start.get_title("left"), trained.get_title("left")) == (
        "Proj, weights at the start",
        "Proj, trained weights",
    )
    assert start.get_xscale() == start.get_yscale() == "log" and trained.get_xlabel() == "mini-batch size M"
    lines = {line.get_label(): line for line in start.lines}
    for measured in tables.select(rows, state="start")[0]["samplings"]:
        name = "signal" if measured["place"] == "signal" else f"weights, {measured['place']}"
        assert lines[name].get_ydata() == pytest.approx(measured["variance"])
    assert lines["1 / M"].get_ydata()[1] == pytest.approx(lines["weights, local"].get_ydata()[0] / 4)


def test_the_figures_of_angles(outcome):
    _, settings, rows = outcome("direction-angles")
    assert len(rows[0]["histograms"]) == 32
    made = settings.report(rows)
    panels = made.figures["figure11.png"].axes
    assert len(panels) == 8 and panels[0].get_title("left") == "α = 0.0001"
    for panel in panels:  # densities
        for steps in panel.patches:
            values, edges, _ = steps.get_data()
            assert float((values * np.diff(edges)).sum()) == pytest.approx(1)
    assert made.text.count("rotation by a truncated normal angle") == 8


def test_the_figures_of_mean_weights(outcome):
    _, settings, rows = outcome("direction-mean-weights")
    made = settings.report(rows)
    left, right = made.figures["figure3.png"].axes
    assert (left.get_title("left"), right.get_title("left")) == ("Training images", "Test images")
    assert [line.get_label() for line in left.lines] == list(mean_weights.WAYS)
    (panel,) = made.figures["accuracy.png"].axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "0.06", "1"]
    image = {"label": 1, "index": 5, "pixels": [[0.0, 1.0]], "panels": [
        {"alpha": alpha, "mean": [0.25, 0.75], "deviation": [0.0, 0.1]} for alpha in (0.0, 0.06, 1.0)
    ]}  # fmt: skip
    panels = mean_weights.draw_softmax(image, 0.06).axes
    assert [panel.get_title("left") for panel in panels][1:] == ["α = 0", "α = 0.06 (training)", "α = 1"]
    assert [bar.get_height() for bar in panels[1].patches] == [0.25, 0.75]


def test_the_table_and_figure_of_the_variational_model(outcome):
    _, settings, rows = outcome("direction-variational")
    made = settings.report(rows)
    assert made.text.count("| lenet-5 ") == 1 + 5 and "Var FC reverse, shared" in made.text
    panels = made.figures["figure6-variational.png"].axes
    posterior = tables.select(rows, network="lenet-300-100", model="variational")[0]["posterior"]
    noise = np.array(posterior["spread"]) / np.abs(posterior["magnitude"])
    labels = [line.get_label() for line in panels[2].lines]
    assert panels[0].get_title("left") == "Weight vectors with most noise"
    assert labels[0] == f"vector {noise.argmax()}" and len(labels) == 4
    for line in panels[2].lines:
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1, rel=1e-3)
    assert panels[2].get_xlim()[0] < -math.pi / 2 + 0.2
