"""Models are put back bit for bit, whatever their passes write; data and options that mean nothing are refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations

from nvrm_fast.probe import NoiseInjection, Plan, Recorder, neural_variability, probe, scan
from nvrm_fast.probe.restored import restored


class Counting(nn.Module):
    """Writes attributes of every kind in its forward pass."""

    def __init__(self):
        super().__init__()
        self.calls, self.last, self.total = 0, None, torch.zeros(3)

    def forward(self, x):
        self.calls += 1
        self.last = x
        self.fresh = x * 2
        self.total += 1
        return x


DRESSES = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrized": parametrizations.weight_norm,
    "attributes": lambda layer: nn.Sequential(layer, Counting()),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


def network(dress):
    torch.manual_seed(0)
    model = nn.Sequential(DRESSES[dress](nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model(torch.randn(4, 8))
    return model


def contents(model):
    """Every attribute of every module, tensors as copies."""
    found = []
    for module in model.modules():
        for name, value in module.__dict__.items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            for key, one in values:
                found.append((name, key, one, one.detach().clone() if isinstance(one, torch.Tensor) else None))
    return found


def same(before, after):
    assert [entry[:2] for entry in before] == [entry[:2] for entry in after]
    for (name, key, old, copied), (_, _, new, content) in zip(before, after):
        assert old is new or (copied is None and old == new), (name, key)
        assert copied is None or torch.equal(copied, content), (name, key)


X, Y = torch.linspace(-1, 1, 96).view(12, 8), torch.arange(12) % 3


RUNS = {
    "variability": lambda m: neural_variability(m, cross_entropy, (X, Y), 0.3, samples=4),
    "one after another": lambda m: neural_variability(m, cross_entropy, (X, Y), 0.3, samples=4, vectorized=False),
    "scan": lambda m: scan(m, Plan((0.1, 1.0), "2", epochs=1, batch_size=6), cross_entropy, (X, Y), (X, Y)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dress", DRESSES)
def test_a_model_is_put_back_as_it_was(dress, run, training):
    if run == "scan" and dress in ("attributes", "spectral_norm"):
        return  # vmap does not run modules that write in place to tensors of their own
    model = network(dress).train(training)
    before = contents(model)
    RUNS[run](model)
    same(before, contents(model))
    copy.deepcopy(model)
    model(X).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dress", DRESSES)
def test_a_recorder_puts_back_what_its_passes_wrote(dress):
    model = network(dress)
    injection = NoiseInjection(model, "2", 1.0)
    before = contents(model)
    Recorder(model, injection, cross_entropy).record(0, (X, Y), (X, Y), node=False)
    same(before, contents(model))


def test_also_after_an_error():
    model = network("attributes")
    before = contents(model)
    with pytest.raises(RuntimeError, match="on the way"), restored(model):
        model(X)
        raise RuntimeError("on the way")
    same(before, contents(model))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["train", "test"])
def test_data_that_are_not_finite_are_refused(part, bad):
    broken = X.clone()
    broken[3, 2] = bad
    data = {"train": (X, Y), "test": (X, Y), part: (broken, Y)}
    with pytest.raises(ValueError, match=f"{part}'s inputs must be finite"):
        probe(network("parametrized"), "2", 1.0, data["train"], data["test"], epochs=1)
    with pytest.raises(ValueError, match="data's inputs must be finite"):
        neural_variability(network("parametrized"), cross_entropy, (broken, Y), 0.3, samples=4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 1.5}, "epochs must be an int, got 1.5"),
        ({"epochs": "3"}, "epochs must be an int, got '3'"),
        ({"batch_size": 2.0}, "batch_size must be an int"),
        ({"records": None}, "records must be an int"),
        ({"seed": 1.0}, "seed must be an int"),
        ({"nodes": 1.5}, "nodes must be an int"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
        ({"sigma": "1"}, "sigma must be a number, got '1'"),
        ({"sigma": None}, "sigma must be a number, got None"),
        ({"networks": 2.5}, "networks must be an int"),
        ({"train": None}, "train must be \\(inputs, targets\\)"),
        ({"test": X}, "test must be \\(inputs, targets\\)"),
    ],
)
def test_arguments_of_another_kind(options, message):
    arguments = {"sigma": 1.0, "train": (X, Y), "test": (X, Y), **options}
    with pytest.raises(TypeError, match=message):
        probe(network("parametrized"), "2", **arguments)


@pytest.mark.parametrize(
    "options, message", [({"b": "1"}, "b must be a number"), ({"samples": 4.0}, "samples must be")]
)
def test_arguments_of_another_kind_to_the_variability(options, message):
    arguments = {"b": 0.1, **options}
    with pytest.raises(TypeError, match=message):
        neural_variability(network("parametrized"), cross_entropy, (X, Y), **arguments)


def test_a_seed_is_the_same_noise_in_every_wrapper():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    expected = neural_variability(model, cross_entropy, (X, Y), 0.3, samples=4, vectorized=False)
    for wrapped in (torch.optim.swa_utils.AveragedModel(model), torch.compile(model, backend="eager")):
        found = neural_variability(wrapped, cross_entropy, (X, Y), 0.3, samples=4, vectorized=False)
        assert torch.equal(found.losses, expected.losses)
