import itertools
import json

import pytest
import torch

from nvrm_fast.optim import NVRMSGD
from studies import StudyError, data, models, optimizers, tables
from studies import __main__ as command
from studies.optimizers import NVRM_SGD, OPTIMIZERS, SGD
from studies.seeds import derive
from studies.study import Context
from studies.variability import label_noise, training
from studies.variability.label_noise import LabelNoise


@pytest.fixture
def images(mnist):
    return data.standardize(data.load("mnist", mnist))


TINY = {"network": "mlp", "width": 16, "epochs": 3, "batch_size": 32}


def tiny(**more):
    """Of one training."""
    return training.TrainingSettings(**(TINY | more))


def run(images, optimizer, seed=0, rate=0.4, **more):
    return training.train(training.corrupt(images, "asymmetric", rate, seed), tiny(**more), optimizer, seed)


def numbers(run):
    return run["test_accuracy"], run["train_accuracy"], run["memorized"], run["train_loss"]


def test_the_whole_study_from_the_command_line(mnist, tmp_path, capsys):
    out = tmp_path / "new" / "results"
    options = (
        f"--data mnist --data-dir {mnist} --width 4 --epochs 3 --batch-size 32 --seeds 2 --processes 1 --out {out}"
    )
    assert command.main(["label-noise", *options.split()]) == 0
    printed = capsys.readouterr()
    assert "cells" not in printed.err  # no progress bar where there is no terminal
    table = (out / "table.md").read_text()
    assert table.count("| asymmetric, 40 % |") == 3 and table in printed.out
    assert "| SGD " in table and "| NVRM-SGD " in table and "| expected calibration error |" in table
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["width"] == 4
    rows = results["rows"]
    assert [(row["optimizer"], row["seed"]) for row in rows] == [(SGD, 0), (NVRM_SGD, 0), (SGD, 1), (NVRM_SGD, 1)]
    for row in rows:
        for measure in ("test_accuracy", "train_accuracy", "memorized", "train_loss", "seconds"):
            assert len(row[measure]) == 3
        assert 0 < row["measured"]["calibration_error"] < 1
        # Momentum in float32; for the noise only a counter and a record of 64 bytes a tensor (of a tiny network here).
        assert 4 <= row["state_bytes_a_parameter"] < 4.3


def test_both_kinds_of_flips_with_every_optimizer(mnist, tmp_path):
    options = f"--preset tiny --data mnist --data-dir {mnist} --out {tmp_path / 'out'}".split()
    assert command.main(["label-noise", *options]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "curves-asymmetric.png",
        "curves-symmetric.png",
    ]
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 8 and {row["noise_kind"] for row in rows} == {"asymmetric", "symmetric"}


def results_of(images, **more):
    settings = LabelNoise(**({"seeds": 2} | TINY | more))
    cells = settings.cells()
    return settings, [
        cell | settings.run(Context(settings, images, None), **cell) for cell in cells
    ]  # fmt: skip


def test_the_figure_shows_the_means_of_the_rows(images):
    settings, rows = results_of(images)
    made = settings.report(rows)
    assert list(made.figures) == ["curves.png"]
    left, right = made.figures["curves.png"].axes
    assert left.get_title("left") == "Test accuracy" and left.get_xlabel() == right.get_xlabel() == "epoch"
    assert right.get_title("left") == "Training accuracy on the corrupted labels"
    for panel, measure in ((left, "test_accuracy"), (right, "train_accuracy")):
        lines = {line.get_label(): line for line in panel.lines}
        for optimizer in (SGD, NVRM_SGD):
            mine = [row[measure] for row in tables.select(rows, optimizer=optimizer)]
            line = lines[training.name(tables.select(rows, optimizer=optimizer)[0])]
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata() == pytest.approx([50 * (a + b) for a, b in zip(*mine)])
    named = [text.get_text() for text in left.texts]
    assert sum(text.startswith(("SGD\n", "NVRM-SGD, b = 0.05\n")) for text in named) == 2
    assert "learning rate drops" in named


def test_the_figure_of_several_rates_and_the_table(images):
    settings, rows = results_of(images, noise_kind=("symmetric", "asymmetric"), noise_rate=(0.2, 0.6), epochs=1)
    made = settings.report(rows)
    assert list(made.figures) == ["curves-symmetric.png", "curves-asymmetric.png"]
    titles = [panel.get_title("left") for panel in made.figures["curves-symmetric.png"].axes]
    assert titles == ["20 % flipped", "60 % flipped", "", ""]
    (legend,) = made.figures["curves-symmetric.png"].legends
    assert [text.get_text() for text in legend.get_texts()] == [SGD, "NVRM-SGD, b = 0.05"]
    both = [
        row["test_accuracy"][-1] for row in tables.select(rows, optimizer=SGD, noise_rate=0.6, noise_kind="symmetric")
    ]
    (line,) = [line for line in made.text.splitlines() if line.startswith("| symmetric, 60 %") and "| SGD" in line]
    assert f"| {tables.percent(both)} " in line
    errors = [
        row["measured"]["calibration_error"]
        for row in tables.select(rows, optimizer=SGD, noise_rate=0.6, noise_kind="symmetric")
    ]
    assert f"| {tables.percent(errors)} " in line
    earlier = [row | {"measured": {}} for row in rows]
    assert "calibration" not in settings.report(earlier).text
    others = [
        row["test_accuracy"][-1]
        for row in tables.select(rows, optimizer=NVRM_SGD, noise_rate=0.6, noise_kind="symmetric")
    ]
    assert f"| {tables.paired(others, both)} " in made.text


def test_several_weight_decays_and_b(images):
    """A figure for each weight decay, a line for each b, and each is compared with SGD at its own decay."""
    settings, rows = results_of(images, weight_decay=(0.0, 1e-2), variability=(0.02, 0.05), epochs=1)
    made = settings.report(rows)
    assert list(made.figures) == ["curves-0.png", "curves-0.01.png"]
    left, _ = made.figures["curves-0.png"].axes
    lines = [line for line in left.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == [SGD, "NVRM-SGD, b = 0.02", "NVRM-SGD, b = 0.05"]
    assert len({line.get_color() for line in lines}) == 3
    ours, base = (
        [row["test_accuracy"][-1] for row in tables.select(rows, weight_decay=0.0, **where)]
        for where in ({"variability": 0.05}, {"optimizer": SGD})
    )
    (line,) = [line for line in made.text.splitlines() if "0.05" in line and "[" in line and "| 0  " in line]
    assert f"| {tables.paired(ours, base)} " in line


@pytest.mark.parametrize(
    "optimizer, network",
    [*itertools.product(OPTIMIZERS, ["mlp"]), (NVRM_SGD, "cnn"), (NVRM_SGD, "resnet34"), (SGD, "mobilenetv2")],
)
def test_same_seed_same_numbers(images, optimizer, network):
    more = {"network": network, "width": 4, "variability": 0.02}
    torch.manual_seed(1)
    first = run(images, optimizer, seed=3, **more)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = run(images, optimizer, seed=3, **more)
    assert numbers(first) == numbers(second)
    assert torch.equal(torch.get_rng_state(), state)  # torch's global generator is neither used nor moved
    assert numbers(run(images, optimizer, seed=4, **more)) != numbers(first)


def test_both_optimizers_start_alike_and_see_the_same_batches(images):
    # Without variability NVRM-SGD is SGD up to rounding, so only a different start or order could part them.
    plain, variable = run(images, SGD), run(images, NVRM_SGD, variability=0.0)
    assert plain["train_loss"] == pytest.approx(variable["train_loss"], rel=1e-4)


def test_training_has_the_noise_and_evaluation_has_not(images, monkeypatch):
    seen = []
    predict = training.predict
    monkeypatch.setattr(training, "predict", lambda *given: seen.append(predict(*given)) or seen[-1])
    # With next to no learning rate the clean weights stay those of the start, under noise that drowns them.
    settings = tiny(lr=1e-12, momentum=0.0, weight_decay=0.0, variability=1.0, epochs=1)
    problem = training.corrupt(images, "asymmetric", 0.4, 0)
    result = training.train(problem, settings, NVRM_SGD, 0)
    start = models.build("mlp", images.shape, 10, 16, seed=derive(0, "weights"))
    assert torch.equal(seen[0], predict(start, images.train_images))
    assert torch.equal(seen[1], predict(start, images.test_images))
    calm = training.train(problem, settings, SGD, 0)
    assert result["train_loss"][0] > 2 * calm["train_loss"][0]


def test_the_noise_returns_after_evaluation(images):
    network = models.build("mlp", images.shape, 10, 16, seed=0)
    optimizer = optimizers.make_optimizer(NVRM_SGD, network, tiny(), 0)
    assert isinstance(optimizer, NVRMSGD)
    torch.nn.functional.cross_entropy(network(images.train_images), images.train_labels).backward()
    optimizer.step()
    noisy = [weight.clone() for weight in network.parameters()]
    with optimizers.clean_weights(optimizer):
        assert not any(torch.equal(weight, before) for weight, before in zip(network.parameters(), noisy))
    for weight, before in zip(network.parameters(), noisy):
        torch.testing.assert_close(weight.detach(), before)


def test_what_is_measured(images):
    settings = tiny(lr_drops=(), lr=0.2, momentum=0.0, epochs=40, width=64)
    problem = training.corrupt(images, "asymmetric", 0.4, 0)
    result = training.train(problem, settings, SGD, 0)
    assert result["memorized"][-1] > 0.9 and result["train_accuracy"][-1] > 0.9  # so small a set is learned by heart
    assert result["state_bytes_a_parameter"] == 0  # no momentum, no state
    clean = training.train(training.corrupt(images, "asymmetric", 0.0, 0), settings, SGD, 0)
    assert clean["memorized"] == [None] * 40 and clean["test_accuracy"][-1] > 0.9
    assert tables.percent(clean["memorized"]) == "-"


def test_a_run_that_diverges_still_gives_a_result(images):
    settings, rows = results_of(images, lr=1e20, seeds=1, optimizers=(SGD,))
    assert rows[0]["train_loss"][-1] is None and json.dumps(rows, allow_nan=False)
    assert list(settings.report(rows).figures) == ["curves.png"]


@pytest.mark.parametrize(
    "epochs, given, drops", [(300, None, [100, 200]), (2, None, [1]), (9, (7, 3), [3, 7]), (9, (), [])]
)
def test_learning_rate_drops(epochs, given, drops):
    assert tiny(epochs=epochs, lr_drops=given).drops == drops


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("noise_rate", (1.0,), "--noise-rate is (1.0,): Input should be less than 1"),
        ("variability", (-1,), "--variability is (-1,): Input should be greater than or equal to 0"),
        ("variability", (float("nan"),), "--variability is (nan,)"),
        ("weight_decay", (), "--weight-decay is (): Value error, give one or more"),
        ("lr", 0, "--lr is 0: Input should be greater than 0"),
        ("momentum", 1, "--momentum is 1"),
        ("epochs", 0, "--epochs is 0: Input should be greater than or equal to 1"),
        ("width", 0, "--width is 0"),
        ("lr_drops", (-3,), "--lr-drops is"),
        ("noise_kind", ("odd",), "--noise-kind is ('odd',): Input should be 'asymmetric', 'symmetric' or 'patterned'"),
    ],
)
def test_wrong_settings_name_the_option(name, value, says):
    with pytest.raises(StudyError) as refused:
        LabelNoise(**{name: value})
    assert str(refused.value).startswith(says)


@pytest.mark.parametrize(
    "options, says",
    [
        ("--data mnist", "--data mnist is missing: --data-dir was not given"),
        ("--data mnist --data-dir nowhere", "--data mnist is missing: --data-dir nowhere lacks"),
    ],
)
def test_missing_data_end_with_status_2_before_anything_is_written(options, says, capsys, tmp_path):
    assert command.main(["label-noise", "--out", str(tmp_path / "out"), *options.split()]) == 2
    assert f"error: {says}" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_presets_are_what_the_paper_shows():
    paper = LabelNoise(**LabelNoise.presets["paper"])
    assert (paper.network, paper.epochs, paper.drops, paper.lr) == ("resnet34", 300, [100, 200], 0.1)
    assert (paper.batch_size, paper.weight_decay, paper.seeds, paper.augmentation) == (128, (1e-4,), 10, "crop-flip")
    rates = {(cell["noise_kind"], cell["noise_rate"]) for cell in paper.cells()}
    assert rates == {("asymmetric", p) for p in (0.1, 0.2, 0.3, 0.4)} | {("symmetric", p) for p in (0.2, 0.4, 0.6, 0.8)}


def test_the_conclusion_is_of_the_rows():
    settings = LabelNoise(seeds=2, epochs=1)
    rows = [
        {**cell, "test_accuracy": [0.5 + 0.1 * cell["seed"] + bool(cell["variability"]) / 4], "memorized": [0.25],
         "train_accuracy": [0.5], "seconds": [1.0], "state_bytes_a_parameter": 4.0}
        for cell in settings.cells()
    ]  # fmt: skip
    assert settings.report(rows).conclusion == (
        "With 40 % of the training labels flipped (asymmetric), SGD ends with 55.0 ± 7.1 % of the test images right "
        "and repeats 25.0 ± 0.0 % of the wrong labels; NVRM-SGD, b = 0.05, ends with 80.0 ± 7.1 % of the test images "
        "right and repeats 25.0 ± 0.0 % of the wrong labels."
    )
    assert label_noise.conclusion([*rows, {**rows[0], "noise_rate": 0.2}]) == ""  # the table says it
    assert label_noise.conclusion([row for row in rows if row["optimizer"] == SGD]) == ""
