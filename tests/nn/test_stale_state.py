"""A forward pass leaves nothing behind that makes a later one wrong; names of layers do not depend on wrappers."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from nvrm_fast import nn as noisy

LAW = {
    "direction": lambda layer: setattr(layer, "direction", noisy.Projected(0.5)),
    "another law": lambda layer: setattr(layer, "direction", noisy.Rotation(0.7)),
    "no direction": lambda layer: setattr(layer, "direction", None),
    "magnitude": lambda layer: setattr(layer, "magnitude", noisy.NormalMagnitude(2.0)),
    "fewer neurons": lambda layer: resize(layer, layer.weight_v.detach()[:3]),
    "fewer inputs": lambda layer: resize(layer, layer.weight_v.detach()[:, :4]),
    "dtype": lambda layer: layer.double(),
}


def resize(layer, weight):
    layer.weight_v = nn.Parameter(weight.clone())
    layer.weight_g = nn.Parameter(weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)))
    layer.bias = nn.Parameter(torch.zeros(len(weight)))


@pytest.mark.parametrize("sampling", ["local", "shared", "batch", "flipout"])
@pytest.mark.parametrize("change", LAW)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_layer_that_is_changed_after_a_pass_is_as_new(kind, change, sampling):
    """Bit for bit what a layer does that had never made a pass before."""

    def make():
        torch.manual_seed(0)
        noise = dict(direction=noisy.Projected(0.001), magnitude=noisy.NormalMagnitude(0.1), sampling=sampling)
        return noisy.DirectionLinear(8, 6, **noise) if kind == "linear" else noisy.DirectionConv1d(8, 6, 2, **noise)

    used, new = make(), make()
    x = torch.randn(5, 8) if kind == "linear" else torch.randn(5, 8, 3)
    used(x).sum().backward()
    results = []
    for layer in (used, new):
        LAW[change](layer)
        noisy.set_noise_mode(layer, "fixed", seed=3)
        x_now = x.to(layer.weight_v.dtype)[:, : layer.weight_v.shape[1]]
        results.append(layer(x_now))
    assert torch.equal(*results)


def test_a_schedule_of_the_noise_takes_effect():
    """Standard deviations before and after, 20,000 draws: 5 standard errors."""
    layer = noisy.DirectionLinear(64, 1, bias=False, direction=noisy.Tangent(1e-5))
    x = torch.randn(1, 64).expand(20_000, 64)
    weak = layer(x).std()
    layer.direction = noisy.Tangent(1e-3)
    assert abs(layer(x).std() / weak / 10 - 1) < 0.06  # 0.5 % each by chance, 3 % since tangents saturate


LAYERS = {
    "projected": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Projected(0.01)),
    "rotation": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Rotation(0.3)),
    "magnitude": lambda: noisy.DirectionLinear(8, 6, magnitude=noisy.NormalMagnitude(0.1)),
    "shared": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Projected(0.01), sampling="shared"),
    "flipout": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Rotation(0.3), sampling="flipout"),
    "conv": lambda: noisy.DirectionConv1d(8, 6, 1, direction=noisy.Projected(0.01)),
    "variational": lambda: noisy.VariationalLinear(8, 6),
    "stochastic": lambda: noisy.StochasticLinear(8, 6),
    "gaussian": lambda: noisy.GaussianDropoutLinear(8, 6, alpha=0.1),
    "signal": lambda: nn.Sequential(noisy.SignalNoise(noisy.Projected(0.01)), nn.Linear(8, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_training_after_a_first_pass_in_inference_mode(name):
    layer, x = LAYERS[name](), torch.randn((4, 8, 3) if name == "conv" else (4, 8))
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_training_after_a_first_pass_inside_a_transform(name):
    layer, x = LAYERS[name](), torch.randn((4, 8, 3) if name == "conv" else (4, 8))
    torch.func.grad(lambda x: layer(x).sum())(x)
    layer(x).sum().backward()
    assert copy.deepcopy(layer)(x).isfinite().all()


class Held(nn.Module):
    """As trainers and user code hold a network: in an attribute."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel, AveragedModel, Held, lambda m: torch.compile(m, backend="eager"),
        lambda m: Held(torch.compile(AveragedModel(m), backend="eager")),
    ],
    ids=["DataParallel", "AveragedModel", "attribute", "compile", "all"],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
def test_a_seed_is_the_same_noise_in_every_wrapper(wrap, inside):
    """inside: one layer of the network is wrapped, not the network."""
    model = noisy.to_noisy(
        nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), "direction", direction=noisy.Projected(0.5)
    )
    x = torch.randn(4, 8)
    with torch.no_grad():
        with noisy.noise_mode(model, "fixed", seed=1):
            expected = model(x)
        if inside and wrap is not Held:
            network = copy.copy(model)
            network._modules = {**model._modules, "2": wrap(model[2])}
            if "net" in dict(network.named_modules()) or any("net" in n for n, _ in network.named_modules()):
                return  # an attribute of the user's own, inside, is another structure
        else:
            network = wrap(model)
        with noisy.noise_mode(network, "fixed", seed=1):
            torch.testing.assert_close(network(x), expected)


def test_a_module_attribute_of_the_users_own_counts():
    one, two = (noisy.DirectionLinear(3, 3, direction=noisy.Projected(0.1)) for _ in range(2))
    model = nn.ModuleDict({"module": nn.ModuleDict({"a": one}), "a": two})
    noisy.set_noise_mode(model, "fixed", seed=1)
    assert one.stream != two.stream
