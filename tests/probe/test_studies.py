"""Every command of the injection studies, end to end, on a few tiny images."""

import json
import sys

import pytest
import torch

from nvrm_fast.experiments import __main__ as command
from nvrm_fast.experiments import data
from nvrm_fast.experiments.injection import problems

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Options for a folder with 260 images of 6 x 6 pixels in MNIST's format."""
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parents[1] / "studies"))
    import official_files

    folder = tmp_path / "images"
    folder.mkdir()
    official_files.write_mnist(folder, size=6)
    return f"--data mnist --data-dir {folder} --threads 1"


def run(study, options, out):
    assert command.main([study, *options.split(), "--out", str(out)]) == 0
    return out


def test_linear(tmp_path, capsys):
    out = run("injection-linear", "--starts 8 --steps 2500", tmp_path / "out")
    content = json.loads((out / "linear.json").read_text())
    assert content["figure"]["phases"] == ["decoupled", "decay", "catapult", "divergent"]
    text = (out / "linear.md").read_text()
    assert text in capsys.readouterr().out and "sigma_div, exact" in text
    assert (out / "linear.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_phases(loss, mnist, tmp_path, capsys):
    options = f"{mnist} --loss {loss} --width 16 --batch-size 40 --epochs 4 --bar-networks 4 --bar-epochs 2 --lr 0.05"
    out = run("injection-phases", options, tmp_path / "out")
    content = json.loads((out / "phases.json").read_text())
    assert content["panels"]["steps"][-1] == 4 * 4 and content["panels"]["steps_an_epoch"] == 4  # 156 training images
    # Table 1 in its units: d_input / (N_w eta) for MSE, d_input / eta for CE.
    unit = 36 / 0.05 / (16 if loss == "mse" else 1)
    assert content["strengths"] == ([1e-4, 25, 30, 40, 47, 50] if loss == "mse" else [1e-4, 0.1, 1, 1.8])
    assert [sigma**2 / unit for sigma in content["panels"]["sigmas"]] == pytest.approx(content["strengths"])
    assert len(content["bar"]["sigmas"]) == 4
    assert (out / "phases.png").read_bytes().startswith(PNG)
    assert (out / "phases.md").read_text() in capsys.readouterr().out
    # Again: everything is there already, and the same comes out.
    again = json.loads((run("injection-phases", options, out) / "phases.json").read_text())
    assert again["panels"] == content["panels"]
    assert command.main(["injection-phases", *options.split(), "--lr", "0.1", "--out", str(out)]) == 2
    assert "add --fresh or name another folder" in capsys.readouterr().err
    run("injection-phases", f"{options} --lr 0.1 --fresh", out)


def test_decay(mnist, tmp_path, capsys):
    options = f"{mnist} --width 16 --batch-size 40 --epochs 8 --networks 4 --sigmas 1 1000 --train-images 80"
    out = run("injection-decay", options, tmp_path / "out")
    content = json.loads((out / "decay.json").read_text())
    assert len(content["redrawn"]["phases"]) == len(content["fixed"]["phases"]) == 4
    assert content["redrawn"]["steps_an_epoch"] == 2
    assert content["redrawn"]["series"]["test_loss"] != content["fixed"]["series"]["test_loss"]
    assert (out / "decay.png").read_bytes().startswith(PNG)
    assert "tau_noise, fixed" in capsys.readouterr().out


def test_probe_of_a_data_set(mnist, tmp_path, capsys):
    out = run("probe", f"{mnist} --layer 1 --sigma 2 --networks 4 --epochs 2 --factors 0.1 1000", tmp_path / "out")
    content = json.loads((out / "probe.json").read_text())
    assert content["diagram"]["phases"][-1] == "divergent" and len(content["diagram"]["phases"]) == 8
    printed = capsys.readouterr().out
    assert "Your sigma 2: " in printed and (out / "probe.md").read_text() in printed


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
        ("--model my_own_models:small --layer 0 --sigma -1", "sigma and factors must be positive"),
        ("--layer 0", "--tensors holds no images"),
    ):
        capsys.readouterr()
        assert command.main(["probe", *options.split(), *more.split(), "--out", str(tmp_path / "other")]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, says",
    [
        ("injection-phases --epochs 0", "--epochs is 0"),
        ("injection-phases --bar-networks 1", "--bar-networks is 1"),
        ("injection-phases --lr nan", "--lr is nan"),
        ("injection-phases --seed -1", "--seed is -1"),
        ("injection-phases --device nothing", "--device nothing cannot be used here"),
        ("injection-decay --sigmas 5 1", "--sigmas is 5.0 1.0"),
        ("injection-decay --shown 11", "--shown is 11: choose from 1 to 10"),
        ("injection-linear --starts 1", "--starts is 1"),
        ("injection-linear --lr 0", "lr must be more than 0"),
    ],
)
def test_wrong_options_end_with_status_2_and_the_remedy(options, says, mnist, tmp_path, capsys):
    study, *rest = options.split()
    rest += [] if study == "injection-linear" else mnist.split()
    assert command.main([study, *rest, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err


def test_the_papers_network_and_split(mnist):
    network = problems.network(400, 10, hidden=3, width=64, seed=0)
    assert [type(layer).__name__ for layer in network] == ["Linear", "ReLU"] * 3 + ["Linear"]
    for layer in network[::2]:
        assert not layer.bias.any()
        # N(0, 1 / fan-in): the standard deviation of n weights is known to 1 / sqrt(2 n), five of which are allowed.
        n = layer.weight.numel()
        assert float(layer.weight.detach().std()) == pytest.approx(layer.in_features**-0.5, rel=5 / (2 * n) ** 0.5)

    class Options:
        data, seed, device, train_images = "mnist", 0, "cpu", None
        data_dir = mnist.split()[3]

    both = data.load("mnist", Options.data_dir)
    problem = problems.problem(Options, "mse")
    (x, y), (x_test, y_test) = problem.train, problem.test
    assert len(x) == 156 and len(x_test) == 104 and problem.inputs == 36
    assert torch.equal(torch.cat([y, y_test]).sum(0), torch.bincount(torch.cat([both.train_labels, both.test_labels])))
    assert torch.allclose(x.mean(0), torch.zeros(36), atol=1e-5) and abs(float(x.std()) - 1) < 1e-4
