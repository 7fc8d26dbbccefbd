"""What is done with a layer's function: torch.func's transforms, torch.autograd.functional, in-place operations.

Every Jacobian and Hessian is held against finite differences in float64 at fixed noise: central ones of step 1e-5,
whose error is some 1e-9 for these functions; 1e-6 is asked for (1e-4 for second derivatives, by differences of
gradients).
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad, functional

from nvrm_fast import nn as noisy

LAYERS = {
    "projected": lambda: noisy.DirectionLinear(4, 3, direction=noisy.Projected(0.1)),
    "tangent": lambda: noisy.DirectionLinear(4, 3, direction=noisy.Tangent(0.1), magnitude=noisy.GammaMagnitude(0.2)),
    "rotation": lambda: noisy.DirectionLinear(4, 3, direction=noisy.Rotation(0.3)),
    "beta": lambda: noisy.DirectionLinear(4, 3, direction=noisy.BetaRotation(2.0)),
    "mises": lambda: noisy.DirectionLinear(4, 3, direction=noisy.VonMisesFisher(5.0)),
    "magnitude": lambda: noisy.DirectionLinear(4, 3, magnitude=noisy.NormalMagnitude(0.1)),
    "shared": lambda: noisy.DirectionLinear(4, 3, direction=noisy.Rotation(0.3), sampling="shared"),
    "batch": lambda: noisy.DirectionLinear(4, 3, direction=noisy.Rotation(0.3), sampling="batch"),
    "shared projected": lambda: noisy.DirectionLinear(4, 3, direction=noisy.Projected(0.1), sampling="shared"),
    "flipout": lambda: noisy.DirectionLinear(4, 3, direction=noisy.Projected(0.1), sampling="flipout"),
    "input": lambda: noisy.DirectionLinear(4, 3, direction=noisy.Rotation(0.3), sampling="flipout", normalize="input"),
    "variational": lambda: noisy.VariationalLinear(4, 3),
    "stochastic": lambda: noisy.StochasticLinear(4, 3, activation="relu"),
    "gaussian": lambda: noisy.GaussianDropoutLinear(4, 3, alpha=0.1),
    "dropout": lambda: noisy.GaussianDropout(0.1),
    "signal": lambda: noisy.SignalNoise(noisy.Projected(0.1), noisy.NormalMagnitude(0.1)),
    "conv": lambda: noisy.DirectionConv1d(2, 3, 2, direction=noisy.Projected(0.1)),
    "shared conv": lambda: noisy.DirectionConv1d(2, 3, 2, direction=noisy.Projected(0.1), sampling="shared"),
    "flipout conv": lambda: noisy.DirectionConv1d(2, 3, 2, direction=noisy.Projected(0.1), sampling="flipout"),
    "stochastic conv": lambda: noisy.StochasticConv1d(2, 3, 2),
    "gaussian conv": lambda: noisy.GaussianDropoutConv1d(2, 3, 2, alpha=0.1),
}


def setting(name):
    """A scalar function of the input, the layer's function, the input."""
    torch.manual_seed(1)
    layer = LAYERS[name]().double()
    noisy.set_noise_mode(layer, "fixed", seed=3)
    x = torch.randn((2, 2, 3) if "conv" in name else (2, 4), dtype=torch.float64)
    return lambda x: layer(x).sin().sum(), layer, x


def differences(function, x, step=1e-5):
    """The Jacobian of function at x, by central differences: (*outputs, *x.shape)."""
    columns = []
    for i in range(x.numel()):
        moved = torch.zeros(x.numel(), dtype=x.dtype)
        moved[i] = step
        moved = moved.view_as(x)
        columns.append((function(x + moved) - function(x - moved)).detach() / (2 * step))
    return torch.stack(columns, -1).view(*columns[0].shape, *x.shape)


def pushed(jacobian, tangent):
    return torch.tensordot(jacobian, tangent, tangent.dim())


def by_dual_numbers(function, x, tangent):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent


def through_batches(layer, x):
    """vmap over inputs, against one pass after another."""
    xs = torch.stack([x, 2 * x, -x])
    return torch.func.vmap(layer)(xs), torch.stack([layer(one) for one in xs])


#: Each gives what was found and what should be, from the scalar, the layer's function, x, a tangent and the Jacobian.
FIRST = {
    "func.grad": lambda f, layer, x, t, J: (torch.func.grad(f)(x), differences(f, x)),
    "func.vjp": lambda f, layer, x, t, J: (torch.func.vjp(f, x)[1](torch.tensor(1.0).double())[0], differences(f, x)),
    "func.jvp": lambda f, layer, x, t, J: (torch.func.jvp(layer, (x,), (t,))[1], pushed(J, t)),
    "func.jacrev": lambda f, layer, x, t, J: (torch.func.jacrev(layer)(x), J),
    "func.jacfwd": lambda f, layer, x, t, J: (torch.func.jacfwd(layer)(x), J),
    "func.vmap": lambda f, layer, x, t, J: through_batches(layer, x),
    "func.vmap of grad": lambda f, layer, x, t, J: through_batches(torch.func.grad(f), x),
    "dual numbers": lambda f, layer, x, t, J: (by_dual_numbers(layer, x, t), pushed(J, t)),
    "vjp": lambda f, layer, x, t, J: (functional.vjp(f, x)[1], differences(f, x)),
    "jvp": lambda f, layer, x, t, J: (functional.jvp(layer, x, t)[1], pushed(J, t)),
    "jacobian": lambda f, layer, x, t, J: (functional.jacobian(layer, x), J),
    "jacobian, vectorized": lambda f, layer, x, t, J: (functional.jacobian(layer, x, vectorize=True), J),
    "jacobian, forward": lambda f, layer, x, t, J: (
        functional.jacobian(layer, x, vectorize=True, strategy="forward-mode"), J
    ),
}  # fmt: skip
SECOND = {
    "func.hessian": lambda f, x, t: torch.func.hessian(f)(x),
    "func.jacrev of grad": lambda f, x, t: torch.func.jacrev(torch.func.grad(f))(x),
    "hessian": lambda f, x, t: functional.hessian(f, x),
    "hessian, vectorized": lambda f, x, t: functional.hessian(f, x, vectorize=True),
    "hessian, forward": lambda f, x, t: functional.hessian(
        f, x, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
    "hvp": lambda f, x, t: functional.hvp(f, x, t)[1],
    "vhp": lambda f, x, t: functional.vhp(f, x, t)[1],
}


@pytest.mark.parametrize("name", LAYERS)
def test_first_derivatives_by_every_transform(name):
    f, layer, x = setting(name)
    tangent, jacobian = torch.randn_like(x), differences(layer, x)
    assert jacobian.abs().max() > 0.1
    for transform, both in FIRST.items():
        found, expected = both(f, layer, x, tangent, jacobian)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=lambda m, t=transform: f"{t}: {m}")


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives_by_every_transform(name):
    f, layer, x = setting(name)

    def gradient(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x), x)[0]

    tangent, hessian = torch.randn_like(x), differences(gradient, x)
    assert hessian.abs().max() > 0.01
    for transform, of in SECOND.items():
        expected = pushed(hessian, tangent) if transform in ("hvp", "vhp") else hessian
        torch.testing.assert_close(
            of(f, x, tangent), expected, rtol=0, atol=1e-4, msg=lambda m, t=transform: f"{t}: {m}"
        )


@pytest.mark.parametrize("name", ["projected", "variational", "stochastic", "conv", "stochastic conv"])
def test_third_derivatives(name):
    """No term is dropped above the second order."""
    f, layer, x = setting(name)

    def curvature(x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        (first,) = torch.autograd.grad(f(x), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x, create_graph=True)[0]

    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(curvature(leaf).sum(), leaf)
    expected = differences(lambda x: curvature(x).detach().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["rotation", "variational", "stochastic", "shared conv", "gaussian"])
def test_derivatives_of_parameters_through_functional_call(name):
    """jacrev and jacfwd of a layer's parameters agree with each other and with backward."""
    _, layer, x = setting(name)
    parameters = {key: p.detach() for key, p in layer.named_parameters()}
    function = lambda parameters: torch.func.functional_call(layer, parameters, (x,)).sin().sum()  # noqa: E731
    layer(x).sin().sum().backward()
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        for key, found in transform(function)(parameters).items():
            torch.testing.assert_close(found, dict(layer.named_parameters())[key].grad, rtol=1e-8, atol=1e-8)


def test_vmap_over_fresh_noise():
    """randomness="different" draws noise for each; torch's own default refuses random operations."""
    layer, xs = noisy.DirectionLinear(4, 3, direction=noisy.Projected(0.1)), torch.ones(5, 2, 4)
    y = torch.func.vmap(layer, randomness="different")(xs)
    assert y.shape == (5, 2, 3) and len({tuple(one.flatten().tolist()) for one in y}) == 5
    with pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(layer)(xs)


def relu(y):
    return F.relu(y, inplace=True)


def residual(y):
    y += 1.0
    return y


def dropout(y):
    return F.dropout(y, 0.5, inplace=True)


@pytest.mark.parametrize("operation, other", [(relu, F.relu), (residual, lambda y: y + 1.0), (dropout, F.dropout)])
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("signal", "dropout")])
def test_in_place_operations_after_a_layer(name, operation, other):
    """As after nn.Linear; gradients are those of the operation out of place."""
    _, layer, x = setting(name)
    for inputs in (x,) if "conv" in name else (x, torch.stack([x, -x])):
        gradients = []
        for then in (operation, other):
            layer.zero_grad()
            leaf = inputs.clone().requires_grad_()
            torch.manual_seed(5)  # of dropout
            then(layer(leaf)).square().sum().backward()
            gradients.append([leaf.grad, *(p.grad.clone() for p in layer.parameters())])
        for a, b in zip(*gradients):
            assert torch.equal(a, b)


def test_a_network_with_relu_in_place():
    model = noisy.to_noisy(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(True), nn.Linear(4, 2)),
        direction=noisy.Projected(0.01),
    )
    model(torch.randn(3, 1, 4, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
