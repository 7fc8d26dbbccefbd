"""Operands of the operator of stochastic activations, and the comparison of a kernel with the reference."""

import torch

from nvrm_fast.contract.layers import StochasticSettings, sums_shape
from nvrm_fast.reference import stochastic


def operands(shape, sums, activation=1, *, dtype=torch.float32, offset=0, margin=-0.4):
    outer, neurons, inner = shape
    generator = torch.Generator().manual_seed(neurons)
    random = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    # Standard deviations from softplus(-100) to softplus(100), most of them ordinary.
    z = random(outer, 2 * neurons, inner) * random(outer, 2 * neurons, inner).mul(2).exp()
    settings = StochasticSettings(2**32 - 5, 3, offset, activation, sums, margin)
    grad_sums = random(*sums_shape(z, sums))
    return z.clamp(-100, 100).to(dtype), torch.tensor([-(2**62) - 12345]), random(*shape).to(dtype), grad_sums, settings


def the_same(z, key, grad, grad_sums, settings, forward, backward):
    y, sums = forward(z, key, *settings)
    expected, expected_sums = stochastic.stochastic_activation(z, key, *settings)
    assert y.dtype == z.dtype and torch.equal(y, expected)
    assert sums.shape == expected_sums.shape and sums.dtype == expected_sums.dtype
    size = max(expected_sums.abs().max().item() if sums.numel() else 0, 1)
    torch.testing.assert_close(sums, expected_sums, rtol=1e-5, atol=1e-5 * size)
    expected = stochastic.stochastic_activation_backward(grad, grad_sums, z, key, *settings)
    assert torch.equal(backward(grad, grad_sums, z, key, *settings), expected)
