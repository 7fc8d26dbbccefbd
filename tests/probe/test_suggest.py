"""suggest_variability against what is known of a quadratic loss, and against its curve drawn by hand."""

import copy
import math
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nvrm_fast
from nvrm_fast import NVRMSGD, noise, suggest_variability
from nvrm_fast.contract.names import unwrapped_names
from nvrm_fast.contract.streams import assign_streams
from nvrm_fast.probe import Suggestion
from nvrm_fast.probe.perturbed import STREAM_PREFIX


class Quadratic(nn.Module):
    """Its output is |w|^2, so that noise of variance b^2 adds n b^2 to it."""

    def __init__(self, n=20_000):
        super().__init__()
        self.w = nn.Parameter(0.3 * torch.randn(n, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        return self.w.square().sum().expand(len(x))


DATA = torch.zeros(8, 1), torch.zeros(8)
mean = lambda outputs, targets: outputs.mean()  # noqa: E731


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("law, deviation", [("gaussian", 1.0), ("uniform", 3**-0.5), ("rademacher", 1.0)])
def test_a_quadratic_loss(fraction, law, deviation):
    """|w|^2 grows by its fraction at b = root mean square * sqrt(fraction) / deviation; straight lines over ln b and
    two digits are 5 % off at most, the draws less than 1 %."""
    found = suggest_variability(Quadratic(), mean, DATA, fraction=fraction, noise=law)
    expected = 0.3 * math.sqrt(fraction) / deviation
    assert found.variability == pytest.approx(expected, rel=0.07)
    assert found.relative == pytest.approx(found.variability / 0.3, rel=0.02)
    absolute = suggest_variability(Quadratic(), mean, DATA, increase=fraction * found.clean_loss, noise=law)
    assert absolute.variability == found.variability


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))


X = torch.randn(300, 5, generator=torch.Generator().manual_seed(2))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
cross_entropy = nn.functional.cross_entropy


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_curve_is_the_loss_under_the_noise_of_the_contract():
    model = network().eval()
    grid = (0.05, 0.1, 0.2, 0.4)
    batches = [(X[:100], Y[:100]), (X[100:150], Y[100:150])]
    found = suggest_variability(
        model,
        cross_entropy,
        batches,
        variabilities=grid,
        samples=3,
        seed=9,
        increase=0.05,
        parameters=["0.weight", "4.bias"],
    )
    assert found.variabilities == grid[: len(found.variabilities)] and len(found.variabilities) >= 2
    assert found.examples == 150 and found.warm_up_steps == 0
    own = dict(model.named_parameters())
    streams = assign_streams([STREAM_PREFIX + name for name in unwrapped_names(model, own)], len(own), set())
    for row, b in zip(found.losses, found.variabilities):
        for k in range(3):
            twin = copy.deepcopy(model)
            with torch.no_grad():
                for (name, p), stream in zip(twin.named_parameters(), streams):
                    if name in ("0.weight", "4.bias"):
                        p += noise(p.numel(), seed=9, stream=stream, step=k + 1, scale=b).view(p.shape)
                expected = (
                    100 * cross_entropy(twin(X[:100]), Y[:100]) + 50 * cross_entropy(twin(X[100:150]), Y[100:150])
                ) / 150
            assert float(row[k]) == pytest.approx(float(expected), rel=1e-5)
    means = [float(row.mean()) - found.clean_loss for row in found.losses]
    assert found.increases == pytest.approx(means)
    low = max(b for b, increase in zip(grid, means) if increase <= 0.05)
    assert low <= found.variability <= 2 * low
    i = grid.index(low)
    share = (0.05 - means[i]) / (means[i + 1] - means[i])
    assert found.variability == pytest.approx(low * 2**share, rel=0.05)  # two digits


def sgd(weights):
    return torch.optim.SGD(weights, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("warm_up", [None, sgd, lambda weights: NVRMSGD(weights, lr=0.1, variability=0.1, seed=0)])
def test_the_same_twice_and_nothing_is_touched(warm_up):
    model = network()
    model[1].eval()
    before, modes = state_of(model), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    found = [suggest_variability(model, cross_entropy, (X, Y), warm_up=warm_up, increase=0.5) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), random)  # dropout draws
    assert torch.equal(found[0].losses, found[1].losses) and found[0].variability == found[1].variability
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_in_evaluation_mode_it_is_deterministic():
    results = []
    for global_seed in (1, 2):
        model = network().eval()
        torch.manual_seed(global_seed)
        random = torch.get_rng_state()
        results.append(suggest_variability(model, cross_entropy, (X, Y), warm_up=sgd, increase=0.3, seed=4))
        assert torch.equal(torch.get_rng_state(), random)
    a, b = results
    assert torch.equal(a.losses, b.losses) and (a.variability, a.clean_loss) == (b.variability, b.clean_loss)
    other = suggest_variability(network().eval(), cross_entropy, (X, Y), warm_up=sgd, increase=0.3, seed=5)
    assert not torch.equal(a.losses[:2], other.losses[:2])


def test_a_warm_up_is_a_training_by_hand():
    model, twin = network().eval(), network()
    batches = [(X[i : i + 50], Y[i : i + 50]) for i in range(0, 300, 50)]
    found = suggest_variability(
        model, cross_entropy, iter(batches), warm_up=sgd, warm_up_steps=4, examples=60, increase=0.5, seed=1
    )
    assert (found.warm_up_steps, found.examples) == (4, 100)
    optimizer = sgd(twin.parameters())
    torch.manual_seed(1)
    for x, y in batches[:4]:
        optimizer.zero_grad()
        cross_entropy(twin(x), y).backward()
        optimizer.step()
    twin.eval()
    with torch.no_grad():
        assert found.clean_loss == pytest.approx(float(cross_entropy(twin(X[:100]), Y[:100])), rel=1e-6)
    alone = suggest_variability(twin, cross_entropy, batches, examples=60, increase=0.5, seed=1)
    assert torch.equal(alone.losses, found.losses) and alone.variability == found.variability


def test_loaders_and_sorted_tensors():
    model = network().eval()
    order = Y.argsort()
    sorted_data = suggest_variability(model, cross_entropy, (X[order], Y[order]), examples=100, increase=0.3)
    assert sorted_data.examples == 128  # two batches of 64
    loader = DataLoader(TensorDataset(X, Y), batch_size=30, shuffle=True)
    assert suggest_variability(model, cross_entropy, loader, examples=90, increase=0.3).examples == 90
    whole = suggest_variability(model, cross_entropy, (X, Y), examples=10_000, increase=0.3)
    assert whole.examples == 300
    # Examples in order would be those of one side alone.
    assert abs(sorted_data.clean_loss - whole.clean_loss) < 0.1


def test_it_is_said_and_drawn():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    found = suggest_variability(Quadratic(), mean, DATA)
    assert str(found).startswith(f"variability={found.variability:g} (0.7")
    axes = found.plot()
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["mean increase of the loss"].get_ydata() == pytest.approx(found.increases)
    assert list(lines[f"suggestion: b = {found.variability:g}"].get_xdata()) == [found.variability] * 2
    assert found.plot(axes) is axes and axes.get_xscale() == "log"
    pyplot.close(axes.figure)


def test_drawing_without_matplotlib(monkeypatch):
    found = suggest_variability(Quadratic(), mean, DATA)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        found.plot()


def test_a_loss_that_overflows_is_far_above_the_limit():
    steep = lambda outputs, targets: (outputs.mean() * 2e-3).exp()  # noqa: E731, e^3.6 without noise
    found = suggest_variability(Quadratic(), steep, DATA, variabilities=(0.001, 0.01, 10.0, 100.0))
    assert found.increases[-1] == math.inf and found.variability == 0.01 and len(found.variabilities) == 3


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(fraction=0.0), ValueError, "fraction must be finite and more than 0, got 0.0"),
        (dict(increase=float("inf")), ValueError, "increase must be finite"),
        (dict(samples=0), ValueError, "samples must be 1 or more"),
        (dict(examples=1.5), TypeError, "examples must be an int"),
        (dict(noise="cauchy"), ValueError, "noise must be one of gaussian"),
        (dict(variabilities=[0.2, 0.1]), ValueError, "variabilities must be two or more numbers above 0, rising"),
        (dict(variabilities=[0.1]), ValueError, "variabilities must be two or more"),
        (dict(warm_up_steps=3), ValueError, "warm_up_steps without warm_up"),
        (dict(warm_up="sgd"), TypeError, "warm_up must be a function"),
        (dict(parameters="w"), TypeError, "parameters must be several names"),
        (dict(parameters=["v"]), ValueError, "not among the model's named_parameters"),
        (dict(data=iter(())), ValueError, "data has no batches"),
        (dict(data=torch.zeros(3)), TypeError, "data must be"),
        (dict(data=(torch.zeros(3, 1), torch.zeros(2))), ValueError, "as many of each"),
        (dict(loss=lambda o, t: -o.mean()), ValueError, "give increase"),
        (dict(loss=lambda o, t: o.mean() * float("nan")), ValueError, "clean loss is nan: the model has diverged"),
        (dict(variabilities=[1e-6, 1e-5]), ValueError, "give larger variabilities"),
        (dict(variabilities=[10.0, 20.0]), ValueError, "give smaller variabilities"),
    ],
)
def test_refused(change, error, message):
    call = dict(model=Quadratic(100), loss=mean, data=DATA) | change
    with pytest.raises(error, match=message):
        suggest_variability(call.pop("model"), call.pop("loss"), call.pop("data"), **call)


def test_where_it_is():
    assert nvrm_fast.suggest_variability is nvrm_fast.probe.suggest_variability
    assert issubclass(Suggestion, object) and "suggest_variability" in nvrm_fast.__all__
    with pytest.raises(AttributeError, match="suggest_nothing"):
        nvrm_fast.suggest_nothing  # noqa: B018
