"""The layers on a GPU, where there is one: the CPU's bits, torch's generator, captured graphs."""

import itertools

import pytest
import stochastic_operands
import torch
from direction_operands import operands
from law_parameters import PARAMETERS

from nvrm_fast import nn as noisy
from nvrm_fast.contract.layers import SUMS
from nvrm_fast.ops import registry
from nvrm_fast.reference import direction_noise as reference

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)


BACKENDS = [name for name in ("native", "triton") if registry.why_missing("direction_noise", name, "cuda") is None]


def test_a_kernel_serves():
    assert registry.choose("direction_noise", torch.device("cuda")) == BACKENDS[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", PARAMETERS)
def test_bits_of_the_reference(direction, backend):
    for magnitude, (shape, groups) in itertools.product(range(3), [((70, 300, 1), 1), ((2, 6, 500), 3)]):
        inputs, settings = operands(direction, magnitude, shape, groups=groups)
        there = [None if x is None else x.cuda() for x in inputs]
        expected = reference.direction_noise(*inputs, *settings)
        found = torch.ops.nvrm_fast.direction_noise(*there, *settings, backend=backend)
        assert torch.equal(found.cpu(), expected)
        grad = torch.randn(shape)
        expected = reference.direction_noise_backward(grad, *inputs, *settings, True)
        found = torch.ops.nvrm_fast.direction_noise_backward(grad.cuda(), *there, *settings, True, backend=backend)
        assert torch.equal(found[0].cpu(), expected[0])
        for a, b in zip(found[1:], expected[1:]):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4 * max(1, b.abs().max() if b.numel() else 0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_bits_of_the_reference_for_stochastic_activations(sums, dtype, backend):
    def on_gpu(name):
        operator = getattr(torch.ops.nvrm_fast, name)

        def call(*args):
            found = operator(*[x.cuda() if isinstance(x, torch.Tensor) else x for x in args], backend=backend)
            return tuple(x.cpu() for x in found) if isinstance(found, tuple) else found.cpu()

        return call

    forward, backward = on_gpu("stochastic_activation"), on_gpu("stochastic_activation_backward")
    for shape, offset in (((70, 512, 1), 0), ((40, 100, 1), 3), ((6, 10, 49), 4)):
        z, key, grad, grad_sums, settings = stochastic_operands.operands(shape, sums, dtype=dtype, offset=offset)
        stochastic_operands.the_same(z, key, grad, grad_sums, settings, forward, backward)


def test_gaussian_like_is_the_cpus():
    key = torch.tensor([-(2**62) - 1])
    on_cpu = torch.ops.nvrm_fast.gaussian_like(torch.zeros(3, 1000), key, 5, 6, 77)
    on_gpu = torch.ops.nvrm_fast.gaussian_like(torch.zeros(3, 1000, device="cuda"), key.cuda(), 5, 6, 77)
    assert torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layer_and_generator(dtype):
    noise = dict(direction=noisy.Projected(0.1), magnitude=noisy.NormalMagnitude(0.1))
    layer = noisy.DirectionLinear(64, 48, device="cuda", dtype=dtype, **noise)
    x = torch.randn(32, 64, device="cuda", dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), y) and not torch.equal(layer(x), y)
    y.float().square().sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in layer.parameters())


def test_a_captured_graph_draws_fresh_noise():
    layer = noisy.DirectionLinear(64, 48, device="cuda", direction=noisy.Projected(0.1))
    x = torch.randn(32, 64, device="cuda")
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                layer(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        graph.replay()
        first = y.clone()
        graph.replay()
    assert first.isfinite().all() and not torch.equal(first, y)
