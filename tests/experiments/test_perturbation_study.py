"""The weight-perturbation study from the command line, at its smallest, and what it measures."""

import copy
import json
import pickle

import pytest
import torch

from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments import data, settings, training
from nvrm_fast.experiments.optimizers import NVRM_SGD, SGD
from nvrm_fast.experiments.record import FILE
from nvrm_fast.experiments.settings import Settings
from nvrm_fast.experiments.variability.perturbation.measures import Perturbations, means
from nvrm_fast.experiments.variability.perturbation.study import PerturbationSettings
from nvrm_fast.probe import accuracy_against_noise, kl_to_prior, neural_variability, zero_one_loss


def test_the_whole_study_and_going_on(mnist, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["weight-perturbation", *f"--preset tiny --data mnist --data-dir {mnist} --out {out}".split()]
    state = torch.get_rng_state()
    assert command.main(options) == 0
    assert torch.equal(torch.get_rng_state(), state)
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table
    assert table.count("| SGD ") == 3 and table.count("| NVRM-SGD, b = 0.02 ") == 3
    assert (out / "perturbation.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    assert results["study"] == "weight-perturbation" and len(results["results"]) == 2
    lines = (out / FILE).read_text().splitlines()
    assert command.main([*options, "--variabilities", "0.02", "0.1"]) == 0  # keeps what is there
    after = (out / FILE).read_text().splitlines()
    assert after[:3] == lines and len(after) == 4
    assert command.main([*options, "--scales", "0.3"]) == 2
    assert "other settings (scales)" in capsys.readouterr().err


def test_the_measures_are_those_of_the_probe(mnist):
    loaded = data.standardize(data.load("mnist", mnist))
    chosen = Settings(
        network="mlp", width=16, epochs=2, batch_size=32, variability=0.3, weight_decay=1e-2, noise_rate=0.0
    )
    problem, kept = training.corrupt(loaded, chosen, 3), []

    def besides(network, *rest):
        kept.append(copy.deepcopy(network))
        return Perturbations((0.05, 0.4), 3, (0.05,), 4)(network, *rest)

    run = training.train(problem, chosen, NVRM_SGD, 3, besides=besides)
    network, found = kept[0].eval(), run.besides
    right = training.predict(copy.deepcopy(network), problem.test_images) == problem.test_labels
    assert float(right.double().mean()) == run.test_accuracy[-1]  # so it was clean
    noise = {"seed": 3 + 2**40, "samples": 3}
    curve = accuracy_against_noise(network, (problem.test_images, problem.test_labels), (0.05, 0.4), **noise)
    assert means(found["accuracy"]) == pytest.approx(curve.mean.tolist(), abs=1e-6)
    noise["samples"] = 4
    errors = neural_variability(
        network, zero_one_loss, (problem.train_images, problem.train_labels), 0.05, **noise
    )  # fmt: skip
    told = found["deltas"]["errors"][0]
    assert (told["clean"], told["difference"]) == pytest.approx((errors.clean_loss, errors.difference), abs=1e-9)
    assert (told["low"], told["high"]) == pytest.approx(errors.interval, abs=1e-9)
    assert found["bounds"][0]["pac_bayes"]["kl"] == pytest.approx(kl_to_prior(network, 0.05, 10.0), rel=1e-6)
    near, information = found["bounds"][0]["pac_bayes_near_start"], found["bounds"][0]["mutual_information"]
    # Round the start with sigma = b the divergence is d^2 / (2 b^2), of which the information's is the logarithm.
    assert near["kl"] == pytest.approx(found["distance_from_start"] ** 2 / (2 * 0.05**2), rel=1e-5)
    assert 0 < information["nats"] < near["kl"]


def test_a_network_that_diverged_is_told(mnist):
    loaded = data.standardize(data.load("mnist", mnist))
    chosen = Settings(network="mlp", width=16, epochs=2, batch_size=32, lr=1e30, noise_rate=0.0)
    with pytest.raises(command.StudyError, match="seed 0, b = 0.05.* diverged"):
        training.train(
            training.corrupt(loaded, chosen, 0), chosen, SGD, 0, besides=Perturbations((0.1,), 2, (0.1,), 2)
        )  # fmt: skip


def test_the_presets_are_the_papers():
    parser = command.build_parser()
    for preset, network, momentum in (
        ("paper", "resnet34", 0.9),
        ("paper-vgg16", "vgg16", 0.0),
        ("paper-mobilenetv2", "mobilenetv2", 0.0),
    ):
        chosen = settings.from_arguments(
            parser.parse_args(["weight-perturbation", "--preset", preset]), PerturbationSettings
        )
        assert (chosen.network, chosen.momentum, chosen.epochs, chosen.batch_size) == (network, momentum, 300, 128)
        assert (chosen.lr, chosen.weight_decay, chosen.noise_rate) == (0.1, 1e-4, 0.0)
        assert chosen.drops == [100, 200] and chosen.scales == (0.01, 0.012, 0.014, 0.016, 0.018, 0.02)
    measures = Perturbations((0.1,), 2, (0.1,), 2)
    assert pickle.loads(pickle.dumps(measures)) == measures  # it travels to the processes that train


@pytest.mark.parametrize(
    "options, says",
    [
        ("--scales 0", "--scales is (0.0,): choose more than 0"),
        ("--train-scales -1", "--train-scales is (-1.0,)"),
        ("--train-samples 1", "--train-samples is 1: choose 2 or more"),
        ("--variabilities -0.1", "--variabilities is (-0.1,)"),
    ],
)
def test_wrong_options_end_with_status_2(options, says, capsys):
    assert command.main(["weight-perturbation", "--preset", "tiny", *options.split()]) == 2
    assert says in capsys.readouterr().err
