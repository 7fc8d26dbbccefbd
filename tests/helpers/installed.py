"""What an installation must do, with torch alone beside it; a script. Prints what it found as one line of JSON.

Ends with an error where the kernels that serve give other bits than the reference, where a layer has no gradients,
where an error says another thing than it should, or where torch.compile and fake tensors do not take the operators.
"""

import hashlib
import json
import sys
import warnings

import torch

import nvrm_fast
from nvrm_fast import nn as noisy
from nvrm_fast.info import build_info
from nvrm_fast.ops.registry import build_facts

OPTIMIZERS = {
    "sgd": (nvrm_fast.NVRMSGD, {}),
    "momentum": (nvrm_fast.NVRMSGD, dict(momentum=0.9, nesterov=True)),
    "adam": (nvrm_fast.NVRMAdam, dict(noise="laplace")),
    "adamw amsgrad": (nvrm_fast.NVRMAdamW, dict(amsgrad=True, noise="uniform")),
    "lion": (nvrm_fast.NVRMLion, dict(noise="rademacher")),
}


def bits_of(tensor):
    return bytes(tensor.detach().view(torch.uint8).tolist())  # without NumPy


def steps(name, dtype, backend, compiler=None):
    """The bits of two tensors after three steps of an optimizer."""
    make, options = OPTIMIZERS[name]
    params = [torch.nn.Parameter(torch.linspace(-1, 1, n, dtype=dtype)) for n in (1001, 3)]
    optimizer = make(params, variability=0.05, seed=3, backend=backend, **options)
    step = optimizer.step if compiler is None else torch.compile(lambda: optimizer.step(), backend=compiler)
    for k in range(3):
        for p in params:
            p.grad = torch.linspace(k, 2, p.numel(), dtype=dtype)
        step()
    return b"".join(map(bits_of, params))


def passes(convert, backend):
    """The output and the gradients of a noisy layer."""
    torch.manual_seed(1)
    layer = convert(torch.nn.Sequential(torch.nn.Linear(7, 5)))
    x = torch.linspace(-1, 1, 21).reshape(3, 7).requires_grad_()
    with nvrm_fast.use_backend(backend), noisy.noise_mode(layer, "fixed", seed=1):
        y = layer(x)
        y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


warnings.simplefilter("error" if build_facts().get("cpu") == "built" else "ignore")  # first use says nothing
serves = build_info()["kernels"]["cpu"]["step_"]["serves"]
bits = hashlib.sha256(bits_of(nvrm_fast.noise(5000, seed=7)))
for name in OPTIMIZERS:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        found = steps(name, dtype, serves)
        assert found == steps(name, dtype, "reference"), (name, dtype)
        bits.update(found)
warnings.simplefilter("ignore")  # the compiler's own
assert steps("adam", torch.float32, serves) == steps("adam", torch.float32, serves, "aot_eager")
for convert in (
    lambda model: noisy.to_noisy(model, direction=noisy.Projected(0.1)),
    lambda model: noisy.to_noisy(model, "stochastic"),
):
    for ours, theirs in zip(passes(convert, serves), passes(convert, "reference")):
        torch.testing.assert_close(ours, theirs)
try:
    nvrm_fast.noise(3, seed=0, backend="native" if serves == "reference" else "triton")
    sys.exit("a kernel that is not there was found")
except RuntimeError as error:
    assert "cannot serve" in str(error), error
with torch._subclasses.FakeTensorMode():
    assert noisy.StochasticLinear(7, 5)(torch.empty(3, 7)).shape == (3, 5)
layer = noisy.DirectionLinear(7, 5, direction=noisy.Projected(0.1))
noisy.set_noise_mode(layer, "fixed", seed=1)
x = torch.ones(3, 7)
torch.testing.assert_close(torch.compile(layer, backend="aot_eager")(x), layer(x))
found = {"file": nvrm_fast.__file__, "version": nvrm_fast.__version__, "torch": torch.__version__}
print(json.dumps({**found, "cpu": build_facts()["cpu"], "serves": serves, "bits": bits.hexdigest()}))
