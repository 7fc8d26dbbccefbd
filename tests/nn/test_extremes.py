"""Zero weight vectors, inputs at the ends of float32, squares in float16, and silenced neurons."""

import pytest
import torch
from torch import nn

from nvrm_fast import nn as noisy

DIRECTIONS = [None, noisy.Projected(0.1), noisy.Rotation(0.3), noisy.VonMisesFisher(5.0)]


@pytest.mark.parametrize("sampling", ["local", "shared", "batch", "flipout"])
@pytest.mark.parametrize("direction", DIRECTIONS, ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_zero_weight_vector(kind, direction, sampling):
    """Outputs and gradients of first and second order are finite; its own direction has none."""
    noise = dict(direction=direction, magnitude=noisy.NormalMagnitude(0.1), sampling=sampling)
    layer = noisy.DirectionLinear(4, 3, **noise) if kind == "linear" else noisy.DirectionConv1d(4, 3, 2, **noise)
    with torch.no_grad():
        layer.weight_v[1] = 0
    x = torch.randn((5, 4) if kind == "linear" else (5, 4, 3), requires_grad=True)
    y = layer(x)
    first = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, *layer.parameters()])
    for tensor in (y, *first, *second):
        assert tensor.isfinite().all()
    assert not first[1][1].any()


@pytest.mark.parametrize("kind", ["direction", "variational"])
def test_a_layer_that_starts_at_zero_can_be_trained_after_conversion(kind):
    """The mean weight is 0 exactly and the magnitude has a gradient that moves it."""
    plain = nn.Linear(4, 3)
    nn.init.zeros_(plain.weight)
    layer = noisy.noisy_layer(plain, kind, **({"direction": noisy.Projected(0.01)} if kind == "direction" else {}))
    assert not layer.mean_weight().any() and layer.weight_v.isfinite().all()
    optimizer, x = torch.optim.SGD(layer.parameters(), 0.1), torch.randn(64, 4)
    target, losses = x @ torch.randn(4, 3), []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append((layer(x) - target).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in layer.parameters()) and losses[-1] < 0.8 * losses[0]


INPUTS = {
    "linear": (lambda: noisy.DirectionLinear(8, 6, bias=False, direction=noisy.Projected(0.1)), (4, 8)),
    "conv": (lambda: noisy.DirectionConv2d(2, 3, 2, bias=False, direction=noisy.Rotation(0.3)), (4, 2, 4, 4)),
    "shared": (
        lambda: noisy.DirectionLinear(8, 6, bias=False, direction=noisy.Projected(0.1), sampling="shared"), (4, 8)
    ),
    "variational": (lambda: noisy.VariationalLinear(8, 6, bias=False), (4, 8)),
    "gaussian": (lambda: noisy.GaussianDropoutLinear(8, 6, bias=False, alpha=0.1), (4, 8)),
    "gaussian conv": (lambda: noisy.GaussianDropoutConv2d(2, 3, 2, bias=False, alpha=0.1), (4, 2, 4, 4)),
    "dropout": (lambda: noisy.GaussianDropout(0.1), (4, 8)),
    "signal": (lambda: noisy.SignalNoise(noisy.Projected(0.1), noisy.GammaMagnitude(0.1)), (4, 8)),
}  # fmt: skip


@pytest.mark.parametrize("scale", [1e25, 1e-25])
@pytest.mark.parametrize("name", INPUTS)
def test_inputs_far_out(name, scale):
    """The noise of a layer without bias is in proportion to its input: outputs and gradients scale with it."""
    make, shape = INPUTS[name]
    layer, x = make(), torch.randn(shape)
    noisy.set_noise_mode(layer, "fixed", seed=1)
    found = []
    for factor in (1.0, scale):
        layer.zero_grad()
        inputs = (factor * x).requires_grad_()
        y = layer(inputs) / factor
        y.square().sum().backward()
        found.append([y.detach(), inputs.grad * factor, *(p.grad.clone() for p in layer.parameters())])
    for a, b in zip(*found):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4 * a.abs().max().item())


ROWS = 4000


def deviation(layer, x, autocast=False):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        return layer(x).float().std(0).mean().item()


@pytest.mark.parametrize("inputs, scale", [(1.0, 1.0), (300.0, 1.0), (1.0, 1e-3), (1e-3, 0.1)])
@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: noisy.GaussianDropoutLinear(64, 8, alpha=0.1), (64,)),
        (lambda: noisy.GaussianDropoutConv2d(4, 8, 4, alpha=0.1), (4, 4, 4)),
        (lambda: noisy.DirectionLinear(64, 8, direction=noisy.Projected(0.1)), (64,)),
        (lambda: noisy.DirectionLinear(64, 8, direction=noisy.Projected(0.1), sampling="flipout"), (64,)),
    ],
    ids=["gaussian linear", "gaussian conv", "direction", "flipout"],
)
def test_float16_has_the_noise_of_float32(make, shape, inputs, scale):
    """Both are estimates from 4,000 rows and 8 neurons: 0.4 % standard error each, so 5 % is no accident."""
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(scale)
    x = (inputs * torch.ones(shape)).expand(ROWS, *shape)
    wanted = deviation(layer, x)
    assert abs(deviation(layer, x, autocast=True) / wanted - 1) < 0.05
    assert abs(deviation(layer.half(), x.half()) / wanted - 1) < 0.05


def test_gradients_of_squares_in_float16():
    layer = noisy.GaussianDropoutLinear(64, 8, alpha=0.1).half()
    layer(torch.full((4, 64), 300.0, dtype=torch.float16)).float().mean().backward()
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.any() and layer.weight.grad.dtype == torch.float16


def pruned_network():
    model = nn.Sequential(noisy.VariationalLinear(8, 16), nn.ReLU(), noisy.VariationalLinear(16, 3))
    with torch.no_grad():
        model[0].log_spread[:4] = 6.0  # four neurons whose magnitude is nothing but noise
    return model


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01),
    "SGD, momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "SGD, weight decay": lambda p: torch.optim.SGD(p, 0.01, weight_decay=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
    "Adam, weight decay": lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-2),
}


@pytest.mark.parametrize("moving", [False, True], ids=["new optimizer", "optimizer from before"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_silenced_neurons_stay_silent(name, moving):
    """They add nothing to the divergence, and training leaves every parameter finite."""
    torch.manual_seed(0)
    model, x, y = pruned_network(), torch.randn(32, 8), torch.randint(3, (32,))
    optimizer = OPTIMIZERS[name](model.parameters())

    def train():
        for _ in range(5):
            optimizer.zero_grad()
            loss = noisy.elbo_loss(nn.functional.cross_entropy(model(x), y), model, len(x))
            loss.backward()
            optimizer.step()
            assert loss.isfinite()

    if moving:
        train()
    assert noisy.prune(model)["0"] == 4
    if not moving:
        optimizer = OPTIMIZERS[name](model.parameters())
    alive = noisy.VariationalLinear(8, 12)
    with torch.no_grad():
        for key, value in alive.state_dict().items():
            value.copy_(model[0].state_dict()[key][4:])
    torch.testing.assert_close(model[0].divergence(), alive.divergence())
    train()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not model[0].mean_weight()[:4].any() and torch.equal(model[0](x)[:, :4], model[0].bias[:4].expand(len(x), 4))
    assert noisy.prune(model)["0"] == 4 and noisy.collapsed(model[0])[:4].all()


def test_checkpoints_from_before_the_mask_load():
    """There a silenced neuron had magnitude 0 and log_spread -inf, and no entry `silenced`."""
    model = pruned_network()
    old = {key: value.clone() for key, value in model.state_dict().items() if not key.endswith("silenced")}
    old["0.weight_g"][:4], old["0.log_spread"][:4] = 0.0, -torch.inf
    kept = {key: value.clone() for key, value in old.items()}
    model.load_state_dict(old)
    assert model[0].silenced.tolist() == 4 * [True] + 12 * [False] and not model[2].silenced.any()
    assert model[0].log_spread.isfinite().all() and noisy.divergence(model).isfinite()
    assert all(torch.equal(old[key], value) for key, value in kept.items())  # the caller's tensors are not written to
    again = pruned_network()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again[0].silenced, model[0].silenced)
    again[0].reset_posterior()
    assert not again[0].silenced.any()
