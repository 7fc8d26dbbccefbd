"""The layers' operators as torch sees them: opcheck, torch.compile, autocast."""

import pytest
import torch
from direction_operands import operands

from nvrm_fast import nn as noisy
from nvrm_fast import use_backend
from nvrm_fast.ops.noise import gaussian_like

LAYERS = {
    "projected": lambda: noisy.DirectionLinear(
        8, 6, direction=noisy.Projected(0.1), magnitude=noisy.GammaMagnitude(0.3)
    ),
    "rotation": lambda: noisy.DirectionLinear(
        8, 6, direction=noisy.Rotation(0.5), magnitude=noisy.NormalMagnitude(0.3)
    ),
    "shared": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Rotation(0.5), sampling="shared"),
    "variational": lambda: noisy.VariationalLinear(8, 6),
    "gaussian": lambda: noisy.GaussianDropoutLinear(8, 6, alpha=0.2),
    "batch": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Rotation(0.5), sampling="batch"),
    "shared projected": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Projected(0.1), sampling="shared"),
    "flipout": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Tangent(0.1), sampling="flipout"),
    "signal": lambda: noisy.SignalNoise(noisy.Projected(0.1), noisy.GammaMagnitude(0.1)),
    "dropout": lambda: noisy.GaussianDropout(0.2),
}


@pytest.mark.parametrize("direction", [0, 1, 3])
def test_opcheck(direction):
    inputs, settings = operands(direction, 1, (3, 4, 1))
    inputs = [x.requires_grad_() if i < 8 and x is not None and x.numel() else x for i, x in enumerate(inputs)]
    torch.library.opcheck(torch.ops.nvrm_fast.direction_noise.default, (*inputs, *settings))
    grad = torch.randn(inputs[0].shape)
    torch.library.opcheck(torch.ops.nvrm_fast.direction_noise_backward.default, (grad, *inputs, *settings, True))


def test_opcheck_of_options():
    for inputs, settings in (operands(3, 2, (2, 4, 3), groups=2, bias=False), operands(3, 0, (2, 4, 3), given=True)):
        torch.library.opcheck(torch.ops.nvrm_fast.direction_noise.default, (*inputs, *settings))
    torch.library.opcheck(torch.ops.nvrm_fast.gaussian_like.default, (torch.ones(3, 5), torch.tensor([3]), 1, 2, 3))


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_layers_draw_the_same_noise(name):
    """fullgraph: no break; the gradients too."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = LAYERS[name]()
    noisy.set_noise_mode(layer, "fixed", seed=3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 8)
    results = []
    for run in (layer, compiled):
        inputs = x.clone().requires_grad_()
        y = run(inputs)
        y.square().sum().backward()
        results.append([y, inputs.grad, *(p.grad.clone() for p in layer.parameters())])
        layer.zero_grad()
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_compiled_by_inductor_fresh_noise_at_every_call():
    torch._dynamo.reset()
    layer = noisy.DirectionLinear(8, 6, direction=noisy.Projected(0.1))
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(5, 8)
    a, b = compiled(x), compiled(x)
    assert a.isfinite().all() and not torch.equal(a, b)
    a.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_autocast(name):
    """Products in bfloat16, norms and noise in float32: close to float32 with the same noise."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    noisy.set_noise_mode(layer, "fixed", seed=3)
    x = torch.randn(64, 8, requires_grad=True)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == (torch.float32 if name in ("dropout", "signal") else torch.bfloat16)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32 and x.grad.isfinite().all()


def test_bfloat16_is_as_good_as_a_bfloat16_product():
    """Errors of a layer in bfloat16 within twice those of the plain product and weight in bfloat16."""
    torch.manual_seed(0)
    layer = noisy.DirectionConv2d(8, 16, 3, direction=noisy.Tangent(0.01))
    noisy.set_noise_mode(layer, "fixed", seed=3)
    x = torch.randn(4, 8, 6, 6)
    error = (copy_in(layer, torch.bfloat16)(x.bfloat16()).float() - layer(x)).std()
    plain = layer.to_conv()
    reference = (copy_in(plain, torch.bfloat16)(x.bfloat16()).float() - plain(x)).std()
    assert error < 2 * reference


def copy_in(module, dtype):
    import copy

    return copy.deepcopy(module).to(dtype)


def test_forced_backends_give_the_same_bits_forward_and_backward():
    layer = noisy.DirectionLinear(8, 6, direction=noisy.Projected(0.1), magnitude=noisy.NormalMagnitude(0.3))
    noisy.set_noise_mode(layer, "fixed", seed=3)
    x = torch.randn(5, 8)
    y = layer(x)
    with use_backend("reference"):
        assert torch.equal(layer(x), y)
    like, key = torch.zeros(300), torch.tensor([4])
    assert torch.equal(gaussian_like(like, key), gaussian_like(like, key, backend="reference"))
    with pytest.raises(RuntimeError, match="cannot serve"):
        gaussian_like(torch.zeros(3, device="meta"), key, backend="native")
