import itertools
import json

import pytest
import torch

from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments import data, networks, report, training
from nvrm_fast.experiments.optimizers import NVRM_SGD, OPTIMIZERS, SGD
from nvrm_fast.experiments.settings import Settings
from nvrm_fast.experiments.variability import label_noise
from nvrm_fast.experiments.variability.grid import Result, cell
from nvrm_fast.optim import NVRMSGD


@pytest.fixture
def images(mnist):
    return data.standardize(data.load("mnist", mnist))


def tiny(**more):
    return Settings(**({"network": "mlp", "width": 16, "epochs": 3, "batch_size": 32, "seeds": 2} | more))


def run(images, optimizer, seed=0, **more):
    settings = tiny(**more)
    return training.train(training.corrupt(images, settings, seed), settings, optimizer, seed)


def numbers(run):
    return run.test_accuracy, run.train_accuracy, run.memorized, run.train_loss


def test_the_whole_study_from_the_command_line(mnist, tmp_path, capsys):
    out = tmp_path / "new" / "results"
    options = f"--data mnist --data-dir {mnist} --width 4 --epochs 3 --batch-size 32 --seeds 2 --workers 1 --out {out}"
    assert command.main(["label-noise", *options.split()]) == 0

    printed = capsys.readouterr()
    assert "200 training images; 2 settings, 2 seeds" in printed.out
    assert "epochs/s" not in printed.err  # no progress bar where there is no terminal
    table = (out / "table.md").read_text()
    assert table.count("\n") == 6 and table.count("| asymmetric, 40 % |") == 2 and table in printed.out
    assert "| SGD " in table and "| NVRM-SGD " in table
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")

    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["width"] == 4 and results["settings"]["lr_drops"] == [1, 2]
    assert {"nvrm_fast", "torch", "python", "device", "threads"} <= results["versions"].keys()
    assert [one["place"]["optimizer"] for one in results["results"]] == [SGD, NVRM_SGD]
    runs = [run for one in results["results"] for run in one["runs"]]
    assert [(run["optimizer"], run["seed"]) for run in runs] == [
        (SGD, 0), (SGD, 1), (NVRM_SGD, 0), (NVRM_SGD, 1),
    ]  # fmt: skip
    for one in runs:
        for measure in ("test_accuracy", "train_accuracy", "memorized", "train_loss", "seconds"):
            assert len(one[measure]) == 3
        assert 4 <= one["state_bytes_a_parameter"] < 4.1  # fp32 momentum; for the noise only a step counter a tensor


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
    assert plain.train_loss == pytest.approx(variable.train_loss, rel=1e-4)


def test_training_wears_the_noise_and_evaluation_does_not(images, monkeypatch):
    seen = []
    predict = training.predict
    monkeypatch.setattr(training, "predict", lambda *given: seen.append(predict(*given)) or seen[-1])
    # With next to no learning rate the clean weights stay those of the start, under noise that drowns them.
    settings = tiny(lr=1e-12, momentum=0.0, weight_decay=0.0, variability=1.0, epochs=1)
    problem = training.corrupt(images, settings, 0)
    result = training.train(problem, settings, NVRM_SGD, 0)
    start = networks.build_network("mlp", images.shape, 10, 16, seed=0)
    assert torch.equal(seen[0], predict(start, images.train_images))
    assert torch.equal(seen[1], predict(start, images.test_images))
    calm = training.train(problem, settings, SGD, 0)
    assert result.train_loss[0] > 2 * calm.train_loss[0]


def test_the_noise_returns_after_evaluation(images):
    network = networks.build_network("mlp", images.shape, 10, 16, seed=0)
    optimizer = training.make_optimizer(NVRM_SGD, network, tiny(), 0)
    assert isinstance(optimizer, NVRMSGD)
    torch.nn.functional.cross_entropy(network(images.train_images), images.train_labels).backward()
    optimizer.step()
    worn = [weight.clone() for weight in network.parameters()]
    with training.clean_weights(optimizer):
        assert not any(torch.equal(weight, before) for weight, before in zip(network.parameters(), worn))
    for weight, before in zip(network.parameters(), worn):
        torch.testing.assert_close(weight.detach(), before)


def test_what_is_measured(images):
    settings = tiny(lr_drops=(0,), lr=0.2, momentum=0.0, epochs=40, width=64)
    problem = training.corrupt(images, settings, 0)
    result = training.train(problem, settings, SGD, 0)
    assert result.memorized[-1] > 0.9 and result.train_accuracy[-1] > 0.9  # so small a set is learned by heart
    assert result.state_bytes_a_parameter == 0  # no momentum, no state
    clean = training.train(training.corrupt(images, tiny(noise_rate=0.0), 0), settings, SGD, 0)
    assert clean.memorized == [None] * 40 and clean.test_accuracy[-1] > 0.9
    assert report.percent(clean.memorized) == "-"


def test_a_run_that_diverges_still_gives_a_result(images, tmp_path):
    result = run(images, SGD, lr=1e20)
    assert result.train_loss[-1] is None
    report.write_json(tmp_path / "x.json", {"loss": result.train_loss})
    chosen = label_noise.LabelSettings(epochs=3, seeds=1)
    one = cell(chosen, SGD, noise_kind="asymmetric", noise_rate=0.4)
    assert label_noise.draw([Result(one, [result])], chosen, tmp_path) == "curves.png"


@pytest.mark.parametrize(
    "epochs, given, drops", [(300, None, [100, 200]), (2, None, [1]), (9, (7, 3), [3, 7]), (9, (0,), [])]
)
def test_learning_rate_drops(epochs, given, drops):
    assert tiny(epochs=epochs, lr_drops=given).drops == drops


@pytest.mark.parametrize(
    "options, says",
    [
        ("--noise-rate 1.0", "--noise-rate is (1.0,)"),
        ("--variability -1", "--variability is -1.0: choose 0 or more"),
        ("--variability nan", "--variability is nan"),
        ("--lr 0", "--lr is 0.0: choose more than 0"),
        ("--momentum 1", "--momentum is 1.0"),
        ("--epochs 0", "--epochs is 0: choose 1 or more"),
        ("--width 0", "--width is 0"),
        ("--lr-drops -3", "--lr-drops is"),
        ("--device nothing", "--device nothing cannot be used here"),
        ("--data mnist", "--data mnist is missing: --data-dir was not given"),
        ("--data mnist --data-dir nowhere", "--data mnist is missing: --data-dir nowhere lacks"),
    ],
)
def test_wrong_options_end_with_status_2_and_the_remedy(options, says, capsys, tmp_path):
    assert command.main(["label-noise", "--out", str(tmp_path), *options.split()]) == 2
    assert f"error: {says}" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command.main(["label-noise", "--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("network", networks.NETWORKS)
@pytest.mark.parametrize("shape, classes", [((1, 28, 28), 10), ((3, 32, 32), 100), ((2, 13, 18), 3)])
def test_networks_fit_all_image_shapes(network, shape, classes):
    logits = networks.build_network(network, shape, classes, seed=0)(torch.zeros(5, *shape))
    assert logits.shape == (5, classes)


def test_images_too_small_for_the_network():
    with pytest.raises(ValueError, match="use mlp"):
        networks.build_network("cnn", (1, 8, 8), 10, seed=0)
