"""Layers under FakeTensorMode, by which tools find out shapes and memory without computing anything."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from nvrm_fast import nn

LAYERS = {
    "rotation": lambda: nn.DirectionLinear(8, 4, direction=nn.Rotation(0.3)),
    "beta rotation": lambda: nn.DirectionLinear(8, 4, direction=nn.BetaRotation(2.0)),
    "von Mises-Fisher": lambda: nn.DirectionLinear(8, 4, direction=nn.VonMisesFisher(9.0)),
    "tangent": lambda: nn.DirectionLinear(8, 4, direction=nn.Tangent(0.3)),
    "rotation conv": lambda: nn.DirectionConv2d(3, 4, 3, direction=nn.Rotation(0.3)),
    "stochastic": lambda: nn.StochasticLinear(8, 4),
    "stochastic conv": lambda: nn.StochasticConv2d(3, 4, 3),
    "variational": lambda: nn.VariationalLinear(8, 4),
    "variational conv": lambda: nn.VariationalConv2d(3, 4, 3),
    "dropout": lambda: nn.GaussianDropoutLinear(8, 4, alpha=0.5),
}


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("name", LAYERS)
def test_shapes_are_those_of_real_tensors(name, grad):
    def run():
        layer = LAYERS[name]()
        x = torch.zeros(2, 3, 8, 8) if "conv" in name else torch.zeros(5, 8)
        with torch.set_grad_enabled(grad):
            y = layer(x)
            if grad:
                y.sum().backward()
        return y, [param.grad for param in layer.parameters()]

    with FakeTensorMode():
        found = run()
    expected = run()
    assert isinstance(found[0], FakeTensor) and not isinstance(expected[0], FakeTensor)
    for fake, real in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert (fake is None) == (real is None)
        if real is not None:
            assert fake.shape == real.shape and fake.dtype == real.dtype and fake.stride() == real.stride()
