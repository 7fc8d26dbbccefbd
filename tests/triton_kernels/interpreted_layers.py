"""The layers' Triton kernels, in the interpreter, against the reference. Started by test_interpreted.py.

Noise and activations bit for bit; sums are added in another order: 1e-5 of the largest one and of the terms' size.
"""

import pytest
import torch
from direction_operands import operands
from interpreter import rounding_of_bfloat16  # noqa: F401

from nvrm_fast import nn as noisy
from nvrm_fast import use_backend
from nvrm_fast.ops import registry
from nvrm_fast.reference import activation
from nvrm_fast.reference import direction_noise as reference
from nvrm_fast.triton import direction_noise as kernels
from nvrm_fast.triton import tiles


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Small tensors end within the first tiles; the interpreter would go through the others all the same."""
    monkeypatch.setattr(kernels, "STEPS", 2)


def the_same(inputs, settings, slopes=True):
    expected = reference.direction_noise(*inputs, *settings)
    assert torch.equal(kernels.direction_noise(*inputs, *settings), expected)
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0].dtype)
    expected = reference.direction_noise_backward(grad, *inputs, *settings, slopes)
    found = kernels.direction_noise_backward(grad, *inputs, *settings, slopes)
    assert torch.equal(found[0], expected[0])
    if settings.tangent_given and settings.law:
        assert torch.equal(found[1], expected[1])
    for a, b in zip(found[1:], expected[1:]):
        assert a.shape == b.shape and a.dtype == b.dtype
        if b.numel():
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(b.abs().max().item(), 1))


@pytest.mark.parametrize("direction, magnitude", [(0, 1), (0, 2), (1, 1), (2, 0), (3, 1), (4, 0), (5, 2)])
def test_triton_is_the_reference(direction, magnitude):
    the_same(*operands(direction, magnitude, (3, 37, 1)))
    the_same(*operands(direction, magnitude, (2, 6, 5), groups=3))
    the_same(*operands(direction, magnitude, (2, 4, 3), given=True), slopes=False)


@pytest.mark.parametrize("direction", [1, 5])
@pytest.mark.parametrize("fan_in", [2, 3, 4])
def test_every_length_of_weight_vectors(direction, fan_in):
    the_same(*operands(direction, 0, (4, 9, 1), fan_in=fan_in))


def test_several_tiles_and_a_distant_offset():
    the_same(*operands(4, 1, (20, 130, 1)))
    the_same(*operands(3, 0, (2, 10, 70), groups=2, bias=False))
    the_same(*operands(1, 2, (3, 20, 1), offset=2**40 - 7))
    for shape in ((0, 5, 1), (3, 0, 1)):
        the_same(*operands(1, 1, shape))


@pytest.mark.parametrize("busy", [0, 1])
def test_programs_of_one_tile_and_of_several(busy, monkeypatch):
    """Runs whose length four divides, and not; ragged ends of tiles, of programs and of groups."""
    monkeypatch.setattr(tiles, "BUSY", busy)
    steps = []
    monkeypatch.setattr(kernels, "forward_steps", lambda count: steps.append(tiles.forward_steps(count)) or steps[-1])
    for shape, groups in (((35, 132, 1), 1), ((9, 12, 1), 3), ((9, 6, 1), 3), ((2, 6, 132), 1), ((2, 6, 67), 2)):
        inputs, settings = operands(4, 1, shape, groups=groups)
        expected = reference.direction_noise(*inputs, *settings)
        assert torch.equal(kernels.direction_noise(*inputs, *settings), expected)
    assert set(steps) == {0: {tiles.FORWARD_STEPS}, 1: {tiles.FORWARD_STEPS, 1}}[busy]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    the_same(*operands(3, 1, (5, 37, 1), dtype=dtype))


def test_gaussian_like():
    like, key = torch.zeros(3, 100), torch.tensor([-(2**62) - 1])
    for offset in (0, 77, 2**36 - 100):
        found = kernels.gaussian_like(like, key, 2**32 - 1, 6, offset)
        assert torch.equal(found, activation.gaussian_like(like, key, 2**32 - 1, 6, offset))


def test_a_layer_on_the_triton_backend():
    """Forward and backward through the layer, and second derivatives, give what the reference gives."""
    assert registry.choose("direction_noise", torch.device("cpu"), "triton") == "triton"
    layer = noisy.DirectionConv2d(2, 4, 3, direction=noisy.Rotation(0.4), magnitude=noisy.NormalMagnitude(0.2))
    noisy.set_noise_mode(layer, "fixed", seed=3)
    results = []
    for backend in ("triton", "reference"):
        x = torch.linspace(-1, 1, 50).view(1, 2, 5, 5).requires_grad_()
        with use_backend(backend):
            y = layer(x)
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            (ddx,) = torch.autograd.grad(dx.square().sum(), x)
        results.append((y, dx, ddx))
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(results[0][1:], results[1][1:]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
