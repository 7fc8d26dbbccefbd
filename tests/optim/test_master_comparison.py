"""Masters are compared with what was written piece by piece: the bits of one comparison of all, and no large memory."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nvrm_fast import SGLD, NVRMAdam
from nvrm_fast.optim import written

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def layouts():
    """Of parameters: contiguous, of a length that no word of 8 bytes divides, beginning within one, transposed."""
    yield torch.randn(40, 9)
    yield torch.randn(333)
    yield torch.randn(334)[1:]
    yield torch.randn(5, 4, 3, 3).to(memory_format=torch.channels_last)
    yield torch.randn(9, 40).t()
    yield torch.randn(())


def trained(dtype, b):
    torch.manual_seed(0)
    params = [nn.Parameter(x.to(dtype) if x.dtype != dtype else x) for x in layouts()]
    optimizer = NVRMAdam(params, variability=b, master_weights=True)
    for _ in range(2):
        step(params, optimizer)
    return params, optimizer


def step(params, optimizer):
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("b", [0.0, 0.1])
@pytest.mark.parametrize("written_at", [None, "first", "everywhere"])
def test_pieces_leave_the_bits_of_one_comparison(dtype, b, written_at, monkeypatch):
    left = []
    for piece in (7, 64, 10**9):
        monkeypatch.setattr(written, "PIECE", piece)
        params, optimizer = trained(dtype, b)
        before = [optimizer.state[p]["master_param"].clone() for p in params]
        with torch.no_grad():
            for p in params:
                if written_at == "everywhere":
                    p.add_(1.0)
                elif written_at == "first":
                    p[(0,) * p.dim()] = 3.0
        for p in params:
            state = optimizer.state[p]
            (ref,) = [ref for plan in optimizer._plans.values() for ref in plan.refs if ref.param is p]
            written.take_over(p.detach(), state["master_param"], state, ref, None)
        left.append([optimizer.state[p]["master_param"].clone() for p in params])
        for p, was, now in zip(params, before, left[-1]):
            changed = (was != now).sum()
            assert changed == {None: 0, "first": 1, "everywhere": p.numel()}[written_at]
            if b == 0 and written_at is not None:
                torch.testing.assert_close(p.detach()[was != now], now[was != now].to(dtype), rtol=0, atol=0)
    for other in left[1:]:
        assert all(torch.equal(x, y) for x, y in zip(left[0], other))


class LargestOutput(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(output):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in known:
                self.elements = max(self.elements, x.numel())
        return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cls, options", [(NVRMAdam, dict(variability=0.0)), (SGLD, dict(lr=1e-9))])
def test_a_step_without_noise_makes_no_large_tensors(cls, options, dtype, monkeypatch):
    monkeypatch.setattr(written, "PIECE", 100)
    param = nn.Parameter(torch.randn(10_000).to(dtype))
    optimizer = cls([param], master_weights=True, **options)
    step([param], optimizer)
    with LargestOutput() as mode:
        optimizer.step()
    assert mode.elements <= 100
