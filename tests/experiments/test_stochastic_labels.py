import json

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments import data
from nvrm_fast.experiments.label_flips import flip_labels
from nvrm_fast.experiments.stochastic.labels import losses as label_losses
from nvrm_fast.experiments.stochastic.labels.training import BASELINE, METHODS, SE_SNN, Recipe, build, corrupted, train


@pytest.fixture
def images(mnist):
    return data.standardize(data.load("mnist", mnist))


def recipe(**more):
    return Recipe(**({"epochs": 2, "batch_size": 32, "lr": 1e-3, "weight": 0.01, "margin": 1.0, "layers": 2} | more))


def test_the_whole_study_from_the_command_line(mnist, tmp_path, capsys):
    out = tmp_path / "results"
    options = f"--preset full --data-dir {mnist} --strengths 0 0.4 --epochs 2 --batch-size 64 --seeds 2 --out {out}"
    assert command.main(["stochastic-label-noise", *options.split()]) == 0
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and all(f"| {name} " in table for name in METHODS)
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert len(runs) == 2 * 2 * len(METHODS)
    assert len({run["weights"] for run in runs}) == 1  # the baseline has as many as the stochastic network
    for run in runs:
        assert len(run["test_accuracy"]) == len(run["train_loss"]) == 2
        assert (run["memorized"] is None) == (run["strength"] == 0)
        assert (run["log_deviation"] is None) == (run["strength"] == 0 or not METHODS[run["method"]].stochastic)
        assert (run["corruption_error"] is None) == (METHODS[run["method"]].estimated_by is None)


@pytest.mark.parametrize(
    "option, says", [("--strengths 1", "--strengths"), ("--lr 0", "--lr"), ("--seeds 0", "--seeds")]
)
def test_settings_out_of_range(option, says, tmp_path, capsys):
    assert command.main(["stochastic-label-noise", *option.split(), "--out", str(tmp_path)]) == 2
    assert f"error: {says} is" in capsys.readouterr().err


def test_patterned_flips_have_one_target_a_class():
    labels = torch.arange(10).repeat_interleave(1000)
    given, flipped = flip_labels(labels, 10, 0.4, "patterned", torch.Generator().manual_seed(0))
    for label in range(10):
        targets = given[(labels == label) & flipped].unique()
        assert len(targets) == 1 and targets[0] != label
        # 5 standard deviations of a share of 1,000.
        assert abs(flipped[labels == label].double().mean().item() - 0.4) < 5 * (0.24 / 1000) ** 0.5
    other, _ = flip_labels(labels, 10, 0.4, "patterned", torch.Generator().manual_seed(1))
    assert not torch.equal(given, other)


def test_losses():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 5, dtype=torch.float64), torch.randint(5, (7,))
    prediction = logits.softmax(1)
    soft = 0.95 * one_hot(labels, 5) + 0.05 * prediction
    hard = 0.8 * one_hot(labels, 5) + 0.2 * one_hot(logits.argmax(1), 5)
    for loss, target in ((label_losses.bootstrap_soft, soft), (label_losses.bootstrap_hard, hard)):
        torch.testing.assert_close(loss(logits, labels), cross_entropy(logits, target))
    corruption = torch.rand(5, 5, dtype=torch.float64)
    corruption /= corruption.sum(1, keepdim=True)
    given = torch.stack([sum(prediction[:, i] * corruption[i, j] for i in range(5)) for j in range(5)], dim=1)
    expected = -given.gather(1, labels[:, None]).log().mean()
    torch.testing.assert_close(label_losses.forward_correction(corruption)(logits, labels), expected)


def test_the_corruption_of_a_network_that_knows_it():
    """Images whose probabilities are their class's row of the matrix, blurred by up to a third, and outliers that are
    sure of their class: what is taken is one of the tenth that is blurred least, within 0.3 / 9 of the truth."""
    true = torch.eye(4) * 0.6 + torch.eye(4).roll(1, 1) * 0.4
    blur = torch.linspace(0, 0.3, 100)[:, None, None]
    rows = ((1 - blur) * true + blur / 4).flatten(0, 1)
    probabilities = torch.cat([rows, torch.eye(4).repeat_interleave(2, 0)])
    torch.testing.assert_close(label_losses.estimated_corruption(probabilities), true, rtol=0, atol=0.3 / 9)


def test_same_seed_same_numbers_and_the_global_generator_stays(images):
    problem, corruption = corrupted(images, 0.4, 3)
    torch.testing.assert_close(corruption.sum(1), torch.ones(10))
    state = torch.get_rng_state()
    first, _ = train(problem, recipe(), SE_SNN, 0.4, 3, cross_entropy)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    second, _ = train(problem, recipe(), SE_SNN, 0.4, 3, cross_entropy)
    assert first.test_accuracy == second.test_accuracy and first.train_loss == second.train_loss
    other, _ = train(problem, recipe(), SE_SNN, 0.4, 4, cross_entropy)
    assert other.train_loss != first.train_loss


def test_networks(images):
    for layers in (1, 2):
        sizes = [sum(p.numel() for p in build(144, 10, s, layers, 0).parameters()) for s in (False, True)]
        assert sizes[0] == sizes[1]
    x = images.train_images[:5]
    network = build(144, 10, True, 2, 0)
    assert not torch.equal(network(x), network(x))
    assert not torch.equal(network(x), build(144, 10, True, 2, 1)(x))


def test_learning_and_the_regularizer(images):
    """Both networks learn the stripes; the regularizer raises log sigma towards its margin."""
    problem, _ = corrupted(images, 0.1, 0)
    settings = recipe(epochs=30, weight=0.0)
    plain, _ = train(problem, settings, BASELINE, 0.1, 0, cross_entropy)
    assert plain.test_accuracy[-1] > 0.7
    calm, _ = train(problem, settings, SE_SNN, 0.1, 0, cross_entropy)
    loud, _ = train(problem, recipe(epochs=30, weight=0.1), SE_SNN, 0.1, 0, cross_entropy)
    assert calm.test_accuracy[-1] > 0.7
    assert loud.log_deviation[0] > calm.log_deviation[0] + 0.2
