"""The weight-perturbation study from the command line, at its smallest, and what it measures and draws."""

import copy
import json

import pytest
import torch

from nvrm_fast.probe import accuracy_against_noise, kl_to_prior, neural_variability, zero_one_loss
from studies import StudyError, data, fit
from studies import __main__ as command
from studies.optimizers import NVRM_SGD, SGD
from studies.record import FILE
from studies.seeds import derive
from studies.variability import perturbation_report, training
from studies.variability.perturbation_report import means
from studies.variability.training import TrainingSettings
from studies.variability.weight_perturbation import WeightPerturbation


def test_the_whole_study_and_going_on(mnist, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["weight-perturbation", *f"--preset tiny --data mnist --data-dir {mnist} --out {out}".split()]
    state = torch.get_rng_state()
    assert command.main(options) == 0
    assert torch.equal(torch.get_rng_state(), state)
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table
    assert table.count("| SGD ") == 3 and table.count("| NVRM-SGD, b = 0.02 ") == 3
    results = json.loads((out / "results.json").read_text())
    assert results["study"] == "weight-perturbation" and len(results["rows"]) == 2
    lines = (out / FILE).read_text().splitlines()
    assert command.main([*options, "--variability", "0.02", "0.1"]) == 0  # keeps what is there
    after = (out / FILE).read_text().splitlines()
    assert after[:3] == lines and len(after) == 4
    assert command.main([*options, "--scales", "0.3"]) == 2
    assert "other settings (scales)" in capsys.readouterr().err


def test_the_measures_are_those_of_the_probe(mnist):
    loaded = data.standardize(data.load("mnist", mnist))
    chosen = TrainingSettings(network="mlp", width=16, epochs=2, batch_size=32, variability=0.3, weight_decay=1e-2)
    study = WeightPerturbation(scales=(0.05, 0.4), samples=3, train_scales=(0.05,), train_samples=4)
    problem, kept = training.corrupt(loaded, "asymmetric", 0.0, 3), []

    def measure(network, *rest):
        kept.append(copy.deepcopy(network))
        return study.measure(network, *rest)

    run = training.train(problem, chosen, NVRM_SGD, 3, measure=measure)
    network, found = kept[0].eval(), run["measured"]
    right = fit.predict(copy.deepcopy(network), problem.test_images) == problem.test_labels
    assert float(right.double().mean()) == run["test_accuracy"][-1]  # so it was clean
    noise = {"seed": derive(3, "perturbed copies"), "samples": 3}
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
    chosen = TrainingSettings(network="mlp", width=16, epochs=2, batch_size=32, lr=1e30)
    with pytest.raises(StudyError, match="seed 0, b = 0.05.* diverged"):
        training.train(
            training.corrupt(loaded, "asymmetric", 0.0, 0), chosen, SGD, 0, measure=WeightPerturbation().measure
        )  # fmt: skip


def row(seed, b, *, difference=0.5):
    """A result whose curves are known."""
    delta = {"b": 0.1, "clean": 0.25, "difference": difference, "low": 0.4, "high": 0.75}
    bound = {"kl": 100.0, "bound": 2.0}
    measured = {
        "weights": 1234,
        "root_mean_square_weight": 0.05,
        "accuracy": [[0.6, 0.8], [0.2 + 0.1 * seed, 0.4 + 0.1 * seed]],
        "deltas": {"cross_entropy": [delta], "errors": [delta | {"difference": 0.1}]},
        "test_errors": [0.3],
        "bounds": [
            {"pac_bayes": None, "pac_bayes_near_start": bound, "mutual_information": {"nats": 7.0, "bound": 0.9}}
        ],
    }
    place = {"optimizer": NVRM_SGD if b else SGD, "variability": b, "seed": seed}
    return place | {"test_accuracy": [0.1, 0.9], "measured": measured}


def test_tables_and_figure_show_the_rows():
    settings = WeightPerturbation(seeds=2, scales=(0.05, 0.2), train_scales=(0.1,), variability=(0.02,))
    rows = [row(seed, b, difference=-0.5 if b else None) for seed in (0, 1) for b in (0.0, 0.02)]
    made = settings.report(rows)
    lines = [line for line in made.text.splitlines() if line.startswith("| NVRM-SGD, b = 0.02")]
    assert [cell.strip() for cell in lines[0].split("|")[2:-1]] == [
        "0.0500 ± 0.0000", "90.0 ± 0.0", "70.0 ± 0.0", "35.0 ± 7.1"
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[1].split("|")[2:-1]] == ["+0.0 [+0.0, +0.0]"] * 3  # above SGD's
    assert "| 0.5000 ± 0.0000 | 0.4000 to 0.7500 |" in lines[2] and "| 10.00 ± 0.00 " in lines[2]
    assert "| -        | -           | 100 ± 0 " in lines[3] and "| 7 ± 0 " in lines[3] and "| 90 ± 0 " in lines[3]
    assert "| infinite" in made.text  # of SGD's
    (figure,) = made.figures.values()
    left, right = figure.axes
    assert left.get_title("left") == "Test accuracy" and right.get_xlabel() == "b"
    (plain, noisy) = left.lines
    assert (plain.get_label(), noisy.get_label()) == (SGD, "NVRM-SGD, b = 0.02")
    assert noisy.get_xdata().tolist() == [0.0, 0.05, 0.2] and noisy.get_ydata() == pytest.approx([90, 70, 35])
    (bars,) = right.containers  # SGD's delta is infinite
    assert bars.get_label() == "NVRM-SGD, b = 0.02" and bars.lines[0].get_ydata().tolist() == [0.5]
    assert right.get_xscale() == right.get_yscale() == "log"
    assert perturbation_report.delta_interval({"low": -0.5, "high": 0.2}) == (0.0, 0.5)


def test_the_preset_is_the_papers():
    paper = WeightPerturbation(**WeightPerturbation.presets["paper"])
    assert (paper.network, paper.momentum, paper.epochs, paper.batch_size) == ("resnet34", 0.9, 300, 128)
    assert (paper.lr, paper.weight_decay, paper.drops) == (0.1, 1e-4, [100, 200])
    assert paper.scales == (0.01, 0.012, 0.014, 0.016, 0.018, 0.02)
    cells = list(paper.cells())
    assert [(cell["optimizer"], cell["variability"]) for cell in cells[:3]] == [
        (SGD, 0.0), (NVRM_SGD, 0.01), (NVRM_SGD, 0.05)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options, says",
    [
        ("--scales 0", "--scales is (0.0,): Input should be greater than 0"),
        ("--train-scales -1", "--train-scales is (-1.0,)"),
        ("--train-samples 1", "--train-samples is 1: Input should be greater than or equal to 2"),
        ("--variability -0.1", "--variability is (-0.1,)"),
    ],
)
def test_wrong_options_end_with_status_2(options, says, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        command.main(["weight-perturbation", "--preset", "tiny", *options.split()])
    assert stopped.value.code == 2 and says in capsys.readouterr().err
