"""The Triton kernels of stochastic activations, in the interpreter, against the reference. Started by
test_interpreted.py. Activations and gradients bit for bit; sums as tests/nn/test_stochastic_kernels.py has it."""

import pytest
import torch
from interpreter import rounding_of_bfloat16  # noqa: F401
from stochastic_operands import operands, the_same

from nvrm_fast import nn as noisy
from nvrm_fast import use_backend
from nvrm_fast.contract.layers import SUMS
from nvrm_fast.triton import stochastic as kernels


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Small tensors end within the first tiles; the interpreter would go through the others all the same."""
    monkeypatch.setattr(kernels, "STEPS", 2)


def triton_is_the_reference(*arguments):
    the_same(*arguments, kernels.stochastic_activation, kernels.stochastic_activation_backward)


@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_triton_is_the_reference(sums):
    """Several tiles of objects and of places, dense and convolutional, with and without the activation."""
    for shape, activation in (((5, 37, 1), 0), ((10, 132, 1), 1), ((2, 6, 35), 1), ((1, 1, 1), 0)):
        triton_is_the_reference(*operands(shape, sums, activation))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    triton_is_the_reference(*operands((5, 37, 1), SUMS["divergence"], dtype=dtype))


def test_distant_offsets_and_empty_tensors():
    for offset in (2**32 - 50, 2**40 - 7):
        triton_is_the_reference(*operands((3, 20, 1), SUMS["sample"], offset=offset))
    for shape in ((0, 5, 1), (3, 0, 1), (2, 3, 0)):
        for sums in SUMS.values():
            triton_is_the_reference(*operands(shape, sums))


def test_a_layer_on_the_triton_backend():
    """Forward, backward and second derivatives of a layer with a regularizer are the reference's."""
    layer = noisy.StochasticLinear(5, 4, activation="relu")
    noisy.set_regularizer(layer, noisy.MaxEntropy("neuron", margin=2.0))
    noisy.set_noise_mode(layer, "fixed", seed=3)
    results = []
    for backend in ("triton", "reference"):
        x = torch.linspace(-1, 1, 15).view(3, 5).requires_grad_()
        with use_backend(backend):
            loss = layer(x).square().sum() + noisy.regularizer_loss(layer)
            (dx,) = torch.autograd.grad(loss, x, create_graph=True)
            (ddx,) = torch.autograd.grad(dx.square().sum(), x)
        results.append((loss, dx, ddx))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
