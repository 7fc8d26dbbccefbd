"""What torch.testing._internal knows of SGD, Adam and AdamW, for our classes: inputs, error inputs and schedulers.

torch's wheel has the tables of its optimizer tests (optim_db) but not the tests (test/test_optim.py); what those check
is in test_torch_suite.py and test_torch_suite_state.py.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch.testing._internal.common_optimizers import optim_db

from nvrm_fast import NVRMSGD, NVRMAdam, NVRMAdamW, PerturbedSGD

INFOS = {info.optim_cls: info for info in optim_db}
PAIRS = [
    (NVRMSGD, torch.optim.SGD),
    (NVRMAdam, torch.optim.Adam),
    (NVRMAdamW, torch.optim.AdamW),
    (PerturbedSGD, torch.optim.SGD),
]
ids = dict(ids=lambda value: getattr(value, "__name__", None))
every_pair = pytest.mark.parametrize("ours, theirs", PAIRS, **ids)
every_perturbed = pytest.mark.parametrize("ours, theirs", PAIRS[:3], **ids)
noisy_or_not = pytest.mark.parametrize("b", [0.0, 0.05], ids=["b=0", "b>0"])


def inputs(theirs, dtype=torch.float32):
    """The keyword arguments of torch's own table, tensors copied (a scheduler writes into a tensor lr)."""
    return [(each.desc, deepcopy(each.kwargs)) for each in INFOS[theirs].optim_inputs_func("cpu", dtype)]


every_input = pytest.mark.parametrize(
    "ours, theirs, kwargs",
    [
        pytest.param(ours, theirs, kwargs, id=f"{ours.__name__}, {desc}")
        for ours, theirs in PAIRS
        for desc, kwargs in inputs(theirs)
    ],
)


def make_params(contiguous=True, dtype=torch.float32):
    """A weight and a bias, of torch's test: dense, or every second element of something larger."""
    generator = torch.Generator().manual_seed(0)
    if contiguous:
        shapes = (10, 5), (10,)
        return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]
    shapes = (10, 5, 2), (10, 2)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)[..., 0]) for s in shapes]


def make_closure(optimizer, params):
    """The loss of torch's test: a linear map that should vanish on one input."""
    weight, bias = params
    x = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(weight.dtype)

    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).square().sum()
        loss.backward()
        return loss

    return closure


def give_gradients(params, seed):
    """Gradients that are the same whatever the weights are."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def assert_near(ours, theirs, steps=10):
    """A few roundings a step, of numbers of order one and ten at most."""
    for p, q in zip(ours, theirs):
        tolerance = 4 * steps * torch.finfo(p.dtype).eps
        torch.testing.assert_close(p.detach(), q.detach(), rtol=tolerance, atol=tolerance)
