import itertools
import json

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from studies import StudyError, data, tables
from studies import __main__ as command
from studies.fit import predict
from studies.seeds import held_out
from studies.stochastic import label_training, methods
from studies.stochastic.label_noise import LabelNoise, kept
from studies.stochastic.label_training import Point, network_of, train, trained, true_corruption
from studies.stochastic.methods import BASELINE, METHODS, SE_SNN
from studies.study import Context
from studies.tables import percent, select
from studies.variability.training import corrupt


@pytest.fixture
def images(mnist):
    return data.standardize(data.load("mnist", mnist))


def training(problem, name, seed=0, *, epochs=2, weight=0.01, layers=2):
    settings = LabelNoise(epochs=epochs, batch_size=32)
    return train(problem, settings, Point(weight, 1.0, layers), name, seed, cross_entropy)[0]


def test_the_whole_study_from_the_command_line(mnist, tmp_path, capsys):
    out = tmp_path / "results"
    options = f"--preset tiny --data mnist --data-dir {mnist} --batch-size 64 --seeds 2 --out {out}"
    assert command.main(["stochastic-label-noise", *options.split()]) == 0
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and all(f"| {name} " in table for name in METHODS)
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * len(METHODS)
    assert len({row["weights"] for row in rows}) == 1  # the baseline has as many as the stochastic network
    for row in rows:
        assert len(row["test_accuracy"]) == len(row["train_loss"]) == 2
        assert (row["memorized"] is None) == (row["strength"] == 0)
        assert (row["log_deviation"] is None) == (row["strength"] == 0 or not METHODS[row["method"]].stochastic)
        assert (row["corruption_error"] is None) == (METHODS[row["method"]].estimated_by is None)


def test_the_protocols_of_other_papers(mnist, tmp_path):
    out = tmp_path / "results"
    options = (
        f"--preset tiny --data mnist --data-dir {mnist} --batch-size 64 --strengths 0.4 --epochs 3 --inputs unit "
        f"--optimizer adagrad --lr 0.01 --dropout 0.2 --validation 0.1 --out {out}"
    )
    assert command.main(["stochastic-label-noise", *options.split()]) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    for row in rows:
        losses = row["validation_loss"]
        assert len(losses) == 3 and kept(row) == row["test_accuracy"][min(range(3), key=losses.__getitem__)]
    assert "test, epoch of lowest validation loss" in (out / "table.md").read_text()


@pytest.mark.parametrize("share", [0.1, 0.0])
def test_images_that_are_held_out_are_not_trained_on(images, share):
    """Their label, which no others have, is learned where they are trained on."""
    problem = corrupt(images, "patterned", 0.0, 0)
    held, used = held_out(problem.train_labels, 0.1, 0)
    assert sorted(torch.cat((held, used)).tolist()) == list(range(len(problem.train_labels)))
    problem.train_labels[used] %= 5
    problem.train_labels[held] = 9
    problem.train_images[held] += 3.0
    settings = LabelNoise(epochs=5, batch_size=8, validation=share)
    _, network = train(problem, settings, Point(0.01, 1.0, 2), BASELINE, 0, cross_entropy)
    assert bool((predict(network, problem.train_images[held]) == 9).any()) == (share == 0)


def test_inputs_from_0_to_1(mnist):
    prepared = LabelNoise(data="mnist", data_dir=str(mnist), inputs="unit").prepare()
    whole = data.load("mnist", mnist)
    assert torch.equal(prepared.train_images * 255, whole.train_images.float())
    assert torch.equal(prepared.test_images * 255, whole.test_images.float())


def test_dropout_is_behind_the_hidden_layers_and_off_where_networks_are_judged():
    network = network_of(6, 3, True, 2, 0.5)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Flatten", "StochasticLinear", "Dropout", "StochasticLinear", "Dropout", "Linear"]
    x = torch.rand(40, 6)
    assert torch.equal(*(label_training.class_probabilities(network, x) for _ in range(2)))


def test_a_network_that_another_method_estimates_from_is_trained_once(images, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(label_training, "train", lambda *given: made.append(given[3]) or train(*given))
    context = Context(LabelNoise(epochs=1), images, tmp_path)
    point = Point(0.01, 1.0, 2)
    alone = trained(context, point, "forward", 0.4, 0)["result"]
    assert made == [BASELINE, "forward"]
    before = trained(context, point, BASELINE, 0.4, 0)
    assert len(made) == 2
    after = trained(Context(LabelNoise(epochs=1), images, tmp_path / "other"), point, BASELINE, 0.4, 0)
    for result in (before["result"], after["result"]):
        result.pop("seconds")
    assert before["result"] == after["result"] and torch.equal(before["corruption"], after["corruption"])
    error = before["corruption"] - true_corruption(images, corrupt(images, "patterned", 0.4, 0))
    assert alone["corruption_error"] == pytest.approx(float(error.abs().mean()))


def some_rows():
    """Two methods at three strengths and two seeds."""
    for strength, seed, (place, method) in itertools.product((0.0, 0.3, 0.5), (0, 1), enumerate((BASELINE, SE_SNN))):
        end = 0.9 - strength + 0.1 * seed * (place + 1)
        yield {"method": method, "strength": strength, "seed": seed, "weights": 1000, "test_accuracy": [0.5, end],
               "memorized": None if strength == 0 else 0.25, "corruption_error": None, "seconds": 1.0,
               "log_deviation": [1.0, 2.0] if place and strength else None}  # fmt: skip


def test_the_table_and_the_figure_show_the_rows():
    settings, rows = LabelNoise(strengths=(0.0, 0.3, 0.5), seeds=2), list(some_rows())
    made = settings.report(rows)
    ends = {
        (method, strength): [sum(row["test_accuracy"]) / 2 for row in select(rows, method=method, strength=strength)]
        for method, strength in itertools.product((BASELINE, SE_SNN), settings.strengths)
    }
    shown = " | ".join(percent(ends[SE_SNN, strength]) for strength in settings.strengths)
    assert f"| {SE_SNN}   | {shown} |" in made.text
    assert "At 30 %" in made.text and tables.paired(ends[SE_SNN, 0.3], ends[BASELINE, 0.3]) in made.text
    left, right = made.figures["accuracy.png"].axes
    assert left.get_xlabel() == "flipped training labels, %" and right.get_xlabel() == "epoch"
    assert right.get_title("left") == "Test accuracy at 30 % flipped labels"
    for (method, bars), line in zip(zip((BASELINE, SE_SNN), left.containers), right.lines):
        assert bars.get_label() == method
        shown = [100 * sum(ends[method, strength]) / 2 for strength in settings.strengths]
        assert bars.lines[0].get_ydata() == pytest.approx(shown)
        assert line.get_ydata() == pytest.approx([50, 2 * shown[1] - 50])  # the epochs themselves


@pytest.mark.parametrize("wrong", [{"strengths": (1,)}, {"lr": 0}, {"margin": float("inf")}, {"layers": 3}])
def test_settings_out_of_range(wrong):
    with pytest.raises(StudyError, match=f"--{next(iter(wrong))} is"):
        LabelNoise(**wrong)


def test_losses():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 5, dtype=torch.float64), torch.randint(5, (7,))
    prediction = logits.softmax(1)
    soft = 0.95 * one_hot(labels, 5) + 0.05 * prediction
    hard = 0.8 * one_hot(labels, 5) + 0.2 * one_hot(logits.argmax(1), 5)
    for loss, target in ((methods.bootstrap_soft, soft), (methods.bootstrap_hard, hard)):
        torch.testing.assert_close(loss(logits, labels), cross_entropy(logits, target))
    corruption = torch.rand(5, 5, dtype=torch.float64)
    corruption /= corruption.sum(1, keepdim=True)
    given = torch.stack([sum(prediction[:, i] * corruption[i, j] for i in range(5)) for j in range(5)], dim=1)
    expected = -given.gather(1, labels[:, None]).log().mean()
    torch.testing.assert_close(methods.forward_correction(corruption)(logits, labels), expected)


def test_the_corruption_of_a_network_that_knows_it():
    """Images whose probabilities are their class's row of the matrix, blurred by up to a third, and outliers that are
    sure of their class: what is taken is one of the tenth that is blurred least, within 0.3 / 9 of the truth."""
    true = torch.eye(4) * 0.6 + torch.eye(4).roll(1, 1) * 0.4
    blur = torch.linspace(0, 0.3, 100)[:, None, None]
    rows = ((1 - blur) * true + blur / 4).flatten(0, 1)
    probabilities = torch.cat([rows, torch.eye(4).repeat_interleave(2, 0)])
    torch.testing.assert_close(methods.estimated_corruption(probabilities), true, rtol=0, atol=0.3 / 9)


def test_same_seed_same_numbers_and_the_global_generator_stays(images):
    problem = corrupt(images, "patterned", 0.4, 3)
    torch.testing.assert_close(true_corruption(images, problem).sum(1), torch.ones(10))
    state = torch.get_rng_state()
    first = training(problem, SE_SNN, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    second = training(problem, SE_SNN, 3)
    assert first["test_accuracy"] == second["test_accuracy"] and first["train_loss"] == second["train_loss"]
    assert training(problem, SE_SNN, 4)["train_loss"] != first["train_loss"]


def test_networks(images):
    for layers in (1, 2):
        sizes = [sum(p.numel() for p in network_of(144, 10, s, layers).parameters()) for s in (False, True)]
        assert sizes[0] == sizes[1]
    x = images.train_images[:5]
    network = network_of(144, 10, True, 2)
    assert not torch.equal(network(x), network(x))


def test_learning_and_the_regularizer(images):
    """Both networks learn the stripes; the regularizer raises log sigma towards its margin."""
    problem = corrupt(images, "patterned", 0.1, 0)
    assert training(problem, BASELINE, epochs=30)["test_accuracy"][-1] > 0.7
    calm = training(problem, SE_SNN, epochs=30, weight=0.0)
    loud = training(problem, SE_SNN, epochs=30, weight=0.1)
    assert calm["test_accuracy"][-1] > 0.7
    assert loud["log_deviation"][0] > calm["log_deviation"][0] + 0.2
