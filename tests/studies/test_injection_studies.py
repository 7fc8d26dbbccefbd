"""The studies of injection nodes and the command probe, end to end on a few tiny images."""

import json
import sys

import official_files
import pytest
import torch

from nvrm_fast.probe import NoiseInjection, PhaseDiagram
from studies import StudyError, data, tables
from studies import __main__ as command
from studies.injection import decay, drawing, linear, phases, probe_model, problems, regularizer


@pytest.fixture
def mnist(tmp_path):
    """Options for a folder with 260 images of 6 x 6 pixels in MNIST's format."""
    folder = tmp_path / "images"
    folder.mkdir()
    official_files.write_mnist(folder, size=6)
    return f"--data mnist --data-dir {folder} --threads 1 --processes 1"


def run(study, options, out):
    assert command.main([study, *options.split(), "--out", str(out)]) == 0
    content = json.loads((out / "results.json").read_text())
    return content, content["rows"], (out / "table.md").read_text()


def test_linear(tmp_path, capsys):
    out = tmp_path / "out"
    content, rows, text = run("injection-linear", "--starts 8 --steps 2500 --processes 1", out)
    curves = tables.select(rows, part="figure")[0]
    assert curves["phases"] == ["decoupled", "decay", "catapult", "divergent"]
    assert curves["steps"][:200] == list(range(200)) and curves["steps"][-1] == 2500 and len(curves["steps"]) < 500
    assert text in capsys.readouterr().out and "sigma_div, exact" in text
    assert (out / "linear.png").exists()
    settings = linear.Linear(**content["settings"])
    bar, *panels = settings.report(rows).figures["linear.png"].axes
    assert [panel.get_title("left").split(": ")[1] for panel in panels] == curves["phases"]
    assert [line.get_label() for line in panels[0].lines] == ["|w0|", "|w1|", "|w noise|", "loss, noise off"]
    assert panels[1].lines[1].get_ydata() == pytest.approx([abs(value) for value in curves["w1"][1]])
    assert [text.get_text() for text in bar.texts] == list(drawing.PHASES) and bar.get_xscale() == "log"


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_phases(loss, mnist, tmp_path, capsys):
    options = f"{mnist} --loss {loss} --width 16 --batch-size 40 --epochs 4 --bar-networks 4 --bar-epochs 2 --lr 0.05"
    content, rows, text = run("injection-phases", options, tmp_path / "out")
    panels, bar, update = rows
    assert panels["steps"][-1] == 4 * 4 and panels["steps_an_epoch"] == 4  # 156 training images
    # Table 1 in its units: d_input / (N_w eta) for MSE, d_input / eta for CE.
    unit = 36 / 0.05 / (16 if loss == "mse" else 1)
    strengths = [1e-4, 25, 30, 40, 47, 50] if loss == "mse" else [1e-4, 0.1, 1, 1.8]
    assert [sigma**2 / unit for sigma in panels["sigmas"]] == pytest.approx(strengths)
    assert len(bar["sigmas"]) == 4 and [one["sigma"] for one in update["sides"]] == panels["sigmas"]
    assert (tmp_path / "out" / "phases.png").exists() and text in capsys.readouterr().out
    settings = phases.Phases(**content["settings"])
    axes = settings.report(rows).figures["phases.png"].axes
    shown = [panel for panel in axes if panel.get_title("left").startswith("σ = ")]
    assert len(shown) == len(strengths) and "(0.0001 units, Table 1): decoupled" in shown[0].get_title("left")
    assert [line.get_label() for line in shown[0].lines] == [
        "training loss, noise on", "test loss, noise off", "‖noise weights‖", "‖next layer‖",
    ]  # fmt: skip
    series = [one[0] for one in panels["series"]["noise_norm"]]
    assert shown[0].lines[2].get_ydata() == pytest.approx(series)
    # Again: everything is there already, and the same comes out.
    assert run("injection-phases", options, tmp_path / "out")[1] == rows
    assert command.main(["injection-phases", *options.split(), "--lr", "0.1", "--out", str(tmp_path / "out")]) == 2
    assert "cells of other settings (lr)" in capsys.readouterr().err
    run("injection-phases", f"{options} --lr 0.1 --fresh", tmp_path / "out")


def test_decay(mnist, tmp_path):
    options = f"{mnist} --width 16 --batch-size 40 --epochs 8 --networks 4 --sigmas 1 1000 --train-images 80"
    content, (redrawn, fixed), text = run("injection-decay", options, tmp_path / "out")
    assert len(redrawn["phases"]) == len(fixed["phases"]) == 4 and redrawn["steps_an_epoch"] == 2
    assert redrawn["series"]["test_loss"] != fixed["series"]["test_loss"]
    assert "tau_noise, fixed" in text and (tmp_path / "out" / "decay.png").exists()
    settings = decay.Decay(**content["settings"])
    center, right = settings.report([redrawn, fixed]).figures["decay.png"].axes
    # The last strength in decay, or the first one.
    shown = max((k for k, phase in enumerate(redrawn["phases"]) if phase == "decay"), default=0)
    title = f"σ = {redrawn['sigmas'][shown]:g} ({redrawn['phases'][shown]})"
    assert center.get_title("left").startswith(title) and center.get_yscale() == "log"
    norms = [row[shown] / redrawn["series"]["noise_norm"][0][shown] for row in redrawn["series"]["noise_norm"]]
    lines = {line.get_label(): line for line in center.lines}
    assert lines["‖noise weights‖, redrawn"].get_ydata() == pytest.approx(norms)
    assert {"test loss, noise off", "‖noise weights‖, fixed"} < lines.keys()
    assert right.get_ylabel() == "epochs" and right.get_xscale() == "log"


def test_a_scan_goes_on_from_its_checkpoint_and_refuses_one_of_other_data(mnist, tmp_path, capsys):
    options = f"{mnist} --width 16 --batch-size 40 --epochs 2 --networks 3 --train-images 80"
    _, rows, _ = run("injection-decay", options, tmp_path / "out")
    lines = (tmp_path / "out/runs.jsonl").read_text().splitlines()
    (tmp_path / "out/runs.jsonl").write_text(lines[0] + "\n")  # its scans are finished, but not recorded
    again = run("injection-decay", options, tmp_path / "out")[1]
    assert [row["series"] for row in again] == [row["series"] for row in rows]
    (tmp_path / "out/runs.jsonl").write_text(lines[0] + "\n")
    official_files.write_mnist(tmp_path / "images", size=7)
    assert command.main(["injection-decay", *options.split(), "--out", str(tmp_path / "out")]) == 2
    assert "add --fresh or name another folder" in capsys.readouterr().err


def test_probe_of_a_data_set(mnist, tmp_path, capsys):
    options = f"{mnist} --layer 1 --sigma 2 --networks 4 --epochs 2 --factors 0.1 1000"
    _, (row,), text = run("probe", options, tmp_path / "out")
    assert row["phases"][-1] == "divergent" and len(row["phases"]) == 8
    assert "Your sigma 2: " in text and text in capsys.readouterr().out
    assert PhaseDiagram.from_dict(row).phases == row["phases"]


def test_probe_of_your_own_model_and_data(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_own_models.py").write_text(
        "import torch\ndef small():\n    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))\n"
        "def none():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    x, y = torch.randn(60, 3), torch.randint(2, (60,))
    torch.save({"train": (x, y), "test": (x, y)}, "data.pt")
    torch.save([x, y], "list.pt")
    options = "--threads 1 --tensors data.pt --sigma 1 --networks 3 --epochs 2 --batch-size 20"
    run("probe", f"{options} --model my_own_models:small --layer 0", tmp_path / "out")
    for more, says in (
        ("--model my_own_models:small --layer head", "layer 'head' is not in the model; its layers: '0', '1'"),
        ("--model my_own_models:none --layer 0", "returned a int, not a torch module"),
        ("--model my_own_models:missing --layer 0", "--model my_own_models:missing cannot be made"),
        ("--model my_own_models --layer 0", "write it as module:function"),
        ("--model my_own_models:small --layer 0 --tensors list.pt", "--tensors list.pt cannot be used"),
        ("--model my_own_models:small --layer 0 --factors 2 1", "--factors is 2.0 1.0: choose two rising numbers"),
        ("--layer 0", "--tensors holds no images"),
    ):
        capsys.readouterr()
        arguments = [*options.split(), *more.split(), "--fresh", "--out", str(tmp_path / "other")]
        assert command.main(["probe", *arguments]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, says",
    [
        ("injection-phases --device nothing", "--device nothing cannot be used here"),
        ("injection-decay --sigmas 5 1", "--sigmas is 5.0 1.0: choose two rising numbers"),
        ("injection-decay --shown 7", "--shown is 7: choose from 1 to 6"),
    ],
)
def test_wrong_options_end_with_status_2_and_the_remedy(options, says, mnist, tmp_path, capsys):
    assert command.main([*options.split(), *mnist.split(), "--out", str(tmp_path / "out")]) == 2
    assert f"error: {says}" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings, name, value",
    [
        (phases.Phases, "epochs", 0),
        (phases.Phases, "bar_networks", 1),
        (phases.Phases, "lr", float("nan")),
        (phases.Phases, "seed", -1),
        (phases.Phases, "strengths", (0.0,)),
        (decay.Decay, "sigmas", (-1.0, 5.0)),
        (linear.Linear, "starts", 1),
        (linear.Linear, "lr", 0.0),
        (probe_model.Probe, "sigma", -1.0),
    ],
)
def test_wrong_settings_name_the_option(settings, name, value):
    with pytest.raises(StudyError) as refused:
        settings(**{name: value})
    assert str(refused.value).startswith(f"--{name.replace('_', '-')} is {value}: ")


def test_presets():
    for study in (linear.Linear, phases.Phases, decay.Decay, probe_model.Probe):
        assert all(study(**preset) for preset in study.presets.values())
    paper = phases.Phases(**phases.Phases.presets["paper"])
    assert (paper.width, paper.lr, paper.batch_size, paper.data) == (1024, 0.01, 1000, "fashion-mnist")


def test_the_papers_network_and_split(mnist):
    network = problems.network(400, 10, hidden=3, width=64, seed=0)
    assert [type(layer).__name__ for layer in network] == ["Linear", "ReLU"] * 3 + ["Linear"]
    for layer in network[::2]:
        assert not layer.bias.any()
        # N(0, 1 / fan-in): the standard deviation of n weights is known to 1 / sqrt(2 n), five of which are allowed.
        n = layer.weight.numel()
        assert float(layer.weight.detach().std()) == pytest.approx(layer.in_features**-0.5, rel=5 / (2 * n) ** 0.5)

    folder = mnist.split()[3]
    both = data.load("mnist", folder)
    problem = problems.problem(problems.InjectionStudy(data="mnist", data_dir=folder), "mse")
    (x, y), (x_test, y_test) = problem.train, problem.test
    assert len(x) == 156 and len(x_test) == 104 and problem.inputs == 36
    assert torch.equal(torch.cat([y, y_test]).sum(0), torch.bincount(torch.cat([both.train_labels, both.test_labels])))
    assert torch.allclose(x.mean(0), torch.zeros(36), atol=1e-5) and abs(float(x.std()) - 1) < 1e-4


def test_regularizer(mnist, tmp_path):
    options = f"{mnist} --width 16 --batch-size 40 --epochs 2 --train-images 80 --test-images 60 --seeds 2 --lr 0.05"
    content, rows, text = run("injection-regularizer", options, tmp_path / "out")
    kinds = [(method, strength) for method, (_, strengths) in regularizer.METHODS.items() for strength in strengths]
    assert [(row["method"], row["strength"]) for row in rows] == kinds * 2
    assert len({len(strengths) for method, (_, strengths) in regularizer.METHODS.items() if method != "sgd"}) == 1
    assert list(rows[0]["accuracy"]) == ["0", "0.25", "0.5", "1", "2", "shifted"]
    # Another remedy is another training; the weights at the start are the seed's.
    plain, *others = (row for row in rows if row["seed"] == 0)
    assert all(other["loss"] != plain["loss"] for other in others)
    assert [row["node_norm"] is not None for row in rows] == [row["method"] == "node" for row in rows]
    starts = {row["seed"]: row["node_norm"][0] for row in rows if row["method"] == "node"}
    assert len(set(starts.values())) == 2 and "Norm of the node's weights" in text
    settings = regularizer.Regularizer(**content["settings"])
    panels = settings.report(rows).figures["robustness.png"].axes
    assert [panel.get_title("left") for panel in panels] == [name for name, _ in list(regularizer.METHODS.values())[1:]]
    drawn = panels[0].containers
    assert [line.get_label() for line in drawn] == ["SGD", "0.03", "0.1", "0.3"]
    means = [100 * sum(row["accuracy"][key] for row in rows if row["method"] == "sgd") / 2 for key in ("0", "0.25")]
    assert list(drawn[0].lines[0].get_ydata()[:2]) == pytest.approx(means)
    assert list(drawn[0].lines[0].get_xdata()) == [0, 0.25, 0.5, 1, 2]


def test_regularizer_perturbs_the_test_inputs():
    """A network that says which pixel is the largest sees them moved, and under the same noise at one seed."""
    settings = regularizer.Regularizer(test_images=4, shift=1, noise=(0.5, 4.0))
    inputs = torch.eye(4)  # 2 x 2 pixels; moved by one to the right and down, 0 becomes 3 and 1 becomes 2
    problem = problems.Problem((inputs, torch.arange(4)), (inputs, torch.arange(4)), 4)
    found = settings.accuracies(torch.nn.Identity(), problem, seed=1)
    assert found["0"] == 1.0 and found["shifted"] == 0.0 and found["4"] < 1.0
    moved = problems.Problem(problem.train, (inputs, torch.tensor([3, 2, 1, 0])), 4)
    assert settings.accuracies(torch.nn.Identity(), moved, seed=1)["shifted"] == 1.0
    assert found == settings.accuracies(torch.nn.Identity(), problem, seed=1)


def test_a_node_that_diverged_has_no_norm():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    node = NoiseInjection(model, "0", sigma=1.0)
    assert regularizer.norm(node) > 0
    with torch.no_grad():
        next(iter(node.parameters())).fill_(float("nan"))
    assert regularizer.norm(node) is None
