"""One registry of kernels: calls, use_backend and compiled graphs all go by it."""

import warnings

import pytest
import torch

from nvrm_fast import nn as noisy
from nvrm_fast import use_backend
from nvrm_fast.ops import registry
from nvrm_fast.ops.noise import gaussian_like

CPU = torch.device("cpu")
LAYERS = {
    "direction_noise": lambda: noisy.DirectionLinear(8, 6, direction=noisy.Projected(0.1)),
    "stochastic_activation": lambda: noisy.StochasticLinear(8, 6),
    "gaussian_like": lambda: noisy.GaussianDropout(0.3),
}


@pytest.fixture
def calls(monkeypatch):
    """Which kernels of the layers' operators are called, as "operator backend"."""
    called = []

    def spy(operator, key, kernel):
        def run(*args):
            called.append(f"{operator} {key[0]}")
            return kernel(*args)

        return run

    for operator in registry.operators():
        for key, kernel in list(registry._kernels[operator].items()):
            monkeypatch.setitem(registry._kernels[operator], key, spy(operator, key, kernel))
    return called


def test_every_operator_has_a_reference_kernel_for_every_device():
    for operator in registry.operators():
        for device in ("cpu", "cuda", "meta", "mps"):
            assert registry.why_missing(operator, "reference", device) is None


def test_registering():
    with pytest.raises(ValueError, match="direction_noise has a reference kernel for \\* already"):
        registry.register_kernel("direction_noise", "reference", registry.EVERY_DEVICE, print)
    with pytest.raises(ValueError, match="backend must be one of"):
        registry.register_kernel("direction_noise", "cudnn", ("cuda",))
    try:

        @registry.register_kernel("an_operator", "reference", ("cpu",))
        def kernel(x):
            return x + 1

        assert registry.kernel("an_operator", CPU)(1) == 2
        with pytest.raises(RuntimeError, match="there is no native kernel of an_operator for cpu tensors"):
            registry.kernel("an_operator", CPU, "native")
    finally:
        del registry._kernels["an_operator"]
        registry._fastest.cache_clear()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_layers_heed_use_backend(name, compiled, calls):
    """Also a graph that was compiled outside of the block."""
    torch._dynamo.reset()
    layer = LAYERS[name]()
    noisy.set_noise_mode(layer, "fixed", seed=3)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    x = torch.randn(5, 8, requires_grad=True)
    run(x).sum().backward()
    fastest = "reference" if registry._native is None else "native"
    assert {backend for _, backend in map(str.split, calls)} == {fastest}
    calls.clear()
    with use_backend("reference"):
        run(x).sum().backward()
    assert name in calls[0] and {backend for _, backend in map(str.split, calls)} == {"reference"}
    with use_backend("triton"), pytest.raises(RuntimeError, match=f"'triton' cannot serve {name} on cpu"):
        run(x)


def test_a_compiled_call_heeds_its_backend(calls):
    torch._dynamo.reset()
    key = torch.tensor([4])
    call = torch.compile(lambda x: gaussian_like(x, key, backend="reference"), fullgraph=True, backend="aot_eager")
    assert torch.equal(call(torch.zeros(300)), gaussian_like(torch.zeros(300), key, backend="reference"))
    assert calls == ["gaussian_like reference"] * 2


def test_the_reference_is_said_once_where_nobody_asked_for_it(monkeypatch):
    """Not where it was asked for, and not a second time."""
    monkeypatch.setattr(registry, "choose", lambda operator, device, backend=None: "reference")
    monkeypatch.setattr(registry, "why_missing", lambda *args: "no compiler was found")
    monkeypatch.setattr(registry, "_warned_of", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.kernel("step_", CPU, "reference")
        with registry.use_backend("reference"):
            registry.kernel("step_", CPU)
    with pytest.warns(UserWarning, match="plain torch on cpu.*no compiler was found.*use_backend"):
        registry.kernel("step_", CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.kernel("fill_noise_", CPU)
