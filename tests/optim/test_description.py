"""describe(): what it says is what the next step does."""

import math

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD, SGLD, NVRMAdam, NVRMLion, PerturbedSGD
from nvrm_fast.optim.description import DEVIATION


def make(cls, dtype=torch.float32, named=True, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 1)).to(dtype)
    return model, cls(model.named_parameters() if named else model.parameters(), **options)


def backward(model, gradient=1.0):
    for p in model.parameters():
        p.grad = torch.full_like(p, gradient)


def test_rows_and_table():
    model, optimizer = make(NVRMSGD, lr=0.1, variability=0.1)
    optimizer.add_param_group(
        {"params": [("late", nn.Parameter(torch.ones(())))], "variability": 0.5, "noise": "laplace"}
    )
    description = optimizer.describe()
    assert [row.name for row in description.rows] == ["0.weight", "0.bias", "1.weight", "1.bias", "late"]
    first, late = description.rows[0], description.rows[-1]
    assert (first.shape, first.dtype, first.storage) == ((30, 40), torch.float32, "in place")
    assert (first.variability, first.noise, first.lost) == (0.1, "gaussian", None)
    assert first.noise_to_weights == pytest.approx(0.1 / float(model[0].weight.detach().square().mean().sqrt()))
    assert late.noise_to_weights == pytest.approx(0.5 * 2**0.5)
    lines = str(description).splitlines()
    assert len(lines) == 7 and lines[0].split()[:3] == ["parameter", "shape", "dtype"]
    assert lines[1].split() == ["0.weight", "30x40", "float32", "in", "place", "0.1", "gaussian", "1.08", "-"]
    assert "between backward() and zero_grad()" in lines[-1]
    backward(model)
    assert len(str(optimizer.describe()).splitlines()) == 6  # no advice


def test_without_names_the_position():
    _, optimizer = make(NVRMSGD, named=False, lr=0.1)
    assert [row.name for row in optimizer.describe().rows] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("noise", DEVIATION)
def test_standard_deviations(noise):
    """Against what a step puts on: a share of 1 / sqrt(2 n) either way is one standard deviation."""
    param = nn.Parameter(torch.full((100_000,), 2.0))
    optimizer = NVRMSGD([param], lr=0.1, variability=0.1, noise=noise)
    said = optimizer.describe().rows[0].noise_to_weights
    param.grad = torch.zeros_like(param)
    optimizer.step()
    assert float((param - 2).std()) / 2 == pytest.approx(said, rel=0.02)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize(
    "cls, options",
    [
        (NVRMSGD, dict(lr=1e-9, momentum=0.9)), (NVRMAdam, dict(lr=1e-9)), (NVRMLion, dict(lr=1e-9)),
        (PerturbedSGD, dict(lr=1e-9)), (SGLD, dict(lr=1e-9)),
    ],
)  # fmt: skip
def test_nothing_changes_and_clean_weights_are_measured(cls, options, masters):
    model, optimizer = make(cls, master_weights=masters, **options)
    if "variability" in optimizer.defaults:
        optimizer.param_groups[0]["variability"] = 0.1
    before = optimizer.describe()
    for _ in range(2):
        backward(model)
        optimizer.step()
    kept = [p.detach().clone() for p in model.parameters()]
    state = {(i, k): x.clone() for i, s in enumerate(optimizer.state.values()) for k, x in s.items()}
    after = optimizer.describe()
    assert all(torch.equal(p, x) for p, x in zip(model.parameters(), kept))
    assert all(torch.equal(x, state[i, k]) for i, s in enumerate(optimizer.state.values()) for k, x in s.items())
    for old, new in zip(before.rows, after.rows):
        assert new.noise_to_weights == pytest.approx(old.noise_to_weights, rel=1e-2)
        assert new.storage == ("master weights" if masters else "in place")
        assert (new.lost == 0.0) == masters
    assert after.wants_masters == (() if masters else ("0.weight", "0.bias", "1.weight", "1.bias"))
    assert ("master_weights=True" in str(after)) != masters


@pytest.mark.parametrize("b, lr", [(0.1, 1e-9), (0.1, 1e-6), (1.0, 1e-8), (0.0, 1e-9)])
def test_lost_updates_are_those_below_half_a_spacing(b, lr):
    """The share that is said against the spacing of weight and noise; and what is said to be kept is kept."""
    model, optimizer = make(NVRMSGD, lr=lr, variability=b)
    backward(model)
    row = optimizer.describe().rows[0]
    weights = model[0].weight.detach().double()
    size = torch.hypot(weights, torch.full_like(weights, b)).float()
    spacing = torch.nextafter(size, torch.tensor(math.inf)) - size
    assert row.lost == pytest.approx(float((lr < spacing / 2).double().mean()), abs=1e-3)
    if b == 0:
        optimizer.step()
        moved = (model[0].weight.detach() != weights.float()).double().mean()
        assert float(moved) == pytest.approx(1 - row.lost, abs=0.02)


def test_sixteen_bits_in_place_lose_what_masters_keep():
    model, optimizer = make(NVRMAdam, torch.bfloat16, lr=1e-4, variability=0.1, master_weights=False)
    backward(model)
    assert optimizer.describe().rows[0].lost == 1.0
    model, optimizer = make(NVRMAdam, torch.bfloat16, lr=1e-4, variability=0.1)
    backward(model)
    row = optimizer.describe().rows[0]
    assert (row.storage, row.lost) == ("master weights", 0.0)


def test_zeros_empty_frozen_and_lazy_parameters():
    params = [
        nn.Parameter(torch.zeros(3)),
        nn.Parameter(torch.empty(0)),
        nn.Parameter(torch.ones(2), requires_grad=False),
    ]
    optimizer = NVRMSGD([*params, nn.UninitializedParameter()], lr=0.1, variability=0.1)
    params[0].grad = torch.zeros(3)
    zeros, empty, frozen = optimizer.describe().rows
    assert (zeros.noise_to_weights, zeros.lost) == (math.inf, 0.0)
    assert empty.shape == (0,) and frozen.lost is None
    optimizer.param_groups[0]["variability"] = 0.0
    assert optimizer.describe().rows[0].noise_to_weights == 0.0


@pytest.mark.parametrize("mode", ["eval", "denoise", "noise on"])
def test_in_every_mode(mode):
    model, optimizer = make(NVRMAdam, lr=1e-3, variability=0.1)
    before = optimizer.describe().rows
    backward(model)
    optimizer.step()
    if mode != "noise on":
        getattr(optimizer, mode)()
    for old, new in zip(before, optimizer.describe().rows):
        assert new.noise_to_weights == pytest.approx(old.noise_to_weights, rel=0.05)
