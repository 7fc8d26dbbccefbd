"""Regularizers of stochastic layers against the paper's equations in float64, at ordinary and at tiny deviations."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from nvrm_fast import nn as noisy


def written_out(regularizer, mean, sigma):
    """Equations 5 to 7 and VIB's divergence as they stand, for (samples, neurons)."""
    if isinstance(regularizer, noisy.StandardNormal):
        return kl_divergence(Normal(mean, sigma), Normal(0.0, 1.0)).sum(1).mean()
    log, b, summed = sigma.log(), regularizer.margin, regularizer.reduction == "sum"
    if regularizer.over == "neuron":
        missing = (b - log.mean(0)).clamp_min(0)
        return missing.sum() if summed else missing.mean()
    if regularizer.over == "sample":  # a sum over neurons has as many margins
        return ((log.shape[1] * b - log.sum(1)) if summed else (b - log.mean(1))).clamp_min(0).mean()
    missing = (b - log).clamp_min(0)
    return missing.sum(1).mean() if summed else missing.mean()


REGULARIZERS = [
    *(noisy.MaxEntropy(over, -0.6, how) for how in ("mean", "sum") for over in ("neuron", "sample", "element")),
    noisy.StandardNormal(),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=str)
def test_equations(regularizer, dtype):
    """The margin lies amid the means, so that some are punished and some are not."""
    torch.manual_seed(0)
    layer, x = noisy.StochasticLinear(6, 5).to(dtype), 3 * torch.randn(7, 6, dtype=dtype)
    noisy.set_regularizer(layer, regularizer)
    layer(x)
    found = noisy.regularizer_loss(layer)
    expected = written_out(regularizer, *(v.double() for v in layer.gaussian(x)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    mine, truth = (torch.autograd.grad(loss, layer.weight)[0] for loss in (found, expected))
    assert truth.abs().max() > 0
    torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=str)
def test_convolutions_average_over_positions(regularizer):
    """Positions are samples of a channel in equation 5 and neurons of an object in the others."""
    torch.manual_seed(1)
    layer, x = noisy.StochasticConv2d(2, 6, 3, groups=2), torch.randn(3, 2, 6, 5)
    noisy.set_regularizer(layer, regularizer)
    layer(x)
    over_neurons = isinstance(regularizer, noisy.MaxEntropy) and regularizer.over == "neuron"
    arrange = (lambda v: v.movedim(1, -1).flatten(0, -2)) if over_neurons else (lambda v: v.flatten(1))
    expected = written_out(regularizer, *(arrange(v).double() for v in layer.gaussian(x)))
    torch.testing.assert_close(noisy.regularizer_loss(layer).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=str)
@pytest.mark.parametrize("raw", [-1e4, -200.0, -90.0, -30.0, 200.0])
def test_tiny_and_huge_deviations(regularizer, raw):
    """softplus(raw) is 0 in float32 from raw = -104 on; the loss and its gradient stay those of log sigma = raw."""
    layer = noisy.StochasticLinear(3, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.bias[2:] = raw
    noisy.set_regularizer(layer, regularizer)
    layer(torch.randn(4, 3))
    loss = noisy.regularizer_loss(layer)
    loss.backward()
    assert loss.isfinite() and layer.bias.grad.isfinite().all()
    if raw < 0:
        divergence = regularizer == noisy.StandardNormal()
        neurons = 2 if divergence or regularizer.reduction == "sum" else 1
        torch.testing.assert_close(layer.bias.grad[2:].sum().item(), -float(neurons))
        expected = neurons * (-raw - 0.5 if divergence else regularizer.margin - raw)
        torch.testing.assert_close(loss.item(), expected, rtol=1e-6, atol=0)


def test_layers_are_summed_and_passes_averaged():
    torch.manual_seed(2)
    model = nn.Sequential(noisy.StochasticLinear(4, 5), nn.ReLU(), noisy.StochasticLinear(5, 3), nn.Linear(3, 2))
    noisy.set_regularizer(model, noisy.MaxEntropy("sample", margin=3.0))
    x, other = torch.randn(6, 4), torch.randn(6, 4)
    alone = []
    for inputs in (x, other):
        model[0](inputs)
        alone.append(noisy.regularizer_loss(model))
    model[2](torch.randn(6, 5))
    second = noisy.regularizer_loss(model)
    assert alone[0] != alone[1] and second > 0
    model[0](x), model[0](other)
    torch.testing.assert_close(noisy.regularizer_loss(model), (alone[0] + alone[1]) / 2)
    noisy.set_noise_mode(model, "fixed", seed=1)
    model(x)
    both = noisy.regularizer_loss(model)
    model[0](x)
    first = noisy.regularizer_loss(model)
    model[2](torch.relu(model[0](x)))
    model[0]._passes = ()
    torch.testing.assert_close(both, first + noisy.regularizer_loss(model))


def test_what_counts_as_a_pass():
    model = nn.Sequential(noisy.StochasticLinear(4, 5))
    x = torch.randn(6, 4)
    with pytest.raises(RuntimeError, match="set_regularizer comes first"):
        model(x), noisy.regularizer_loss(model)
    noisy.set_regularizer(model, noisy.MaxEntropy("sample", margin=3.0))
    with torch.no_grad():
        model(x)
    with noisy.noise_mode(model, "mean"):
        model(x)
    with pytest.raises(RuntimeError, match="no stochastic layer has made a forward pass"):
        noisy.regularizer_loss(model)
    model(x)
    twin = copy.deepcopy(model)  # a graph that waits for its regularizer is in nobody's way
    noisy.regularizer_loss(model)
    with pytest.raises(RuntimeError):
        noisy.regularizer_loss(model)
    with pytest.raises(RuntimeError):
        noisy.regularizer_loss(twin)


def test_bad_arguments():
    with pytest.raises(ValueError, match="over must be one of"):
        noisy.MaxEntropy("channel", 1.0)
    with pytest.raises(ValueError, match="reduction must be one of mean, sum; got 'none'"):
        noisy.MaxEntropy("neuron", 1.0, "none")
    with pytest.raises(ValueError, match="margin must be finite"):
        noisy.MaxEntropy("neuron", float("inf"))
    with pytest.raises(ValueError, match="no stochastic layer"):
        noisy.set_regularizer(nn.Linear(2, 2), noisy.StandardNormal())
    with pytest.raises(TypeError, match="regularizer must be"):
        noisy.set_regularizer(noisy.StochasticLinear(2, 2), "sample")


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=str)
def test_second_derivatives_through_a_dense_layer(regularizer):
    """By finite differences in float64, with respect to input and parameters, activations and penalty together."""
    torch.manual_seed(3)
    layer = noisy.StochasticLinear(3, 2, activation="relu").double()
    noisy.set_regularizer(layer, regularizer)
    noisy.set_noise_mode(layer, "fixed", seed=4)

    def function(x, *parameters):
        return layer(x), noisy.regularizer_loss(layer)

    inputs = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True), *layer.parameters()]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
