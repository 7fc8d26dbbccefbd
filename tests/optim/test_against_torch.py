"""b = 0 is torch.optim within a few ulp, and the reference rule bit for bit."""

import pytest
import torch
from training import Model, same, train, weights

from nvrm_fast import NVRMSGD, NVRMAdam, NVRMAdamW, PerturbedSGD

CASES = [
    (NVRMSGD, torch.optim.SGD, dict(lr=0.1)),
    (NVRMSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    (NVRMSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.5)),
    (NVRMSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, maximize=True)),
    (NVRMSGD, torch.optim.SGD, dict(lr=torch.tensor(0.1), momentum=0.9)),
    (PerturbedSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    (NVRMAdam, torch.optim.Adam, dict(lr=0.01)),
    (NVRMAdam, torch.optim.Adam, dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, amsgrad=True)),
    (NVRMAdam, torch.optim.Adam, dict(lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)),
    (NVRMAdamW, torch.optim.AdamW, dict(lr=0.01)),
    (NVRMAdamW, torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1, amsgrad=True, maximize=True)),
]


@pytest.mark.parametrize("ours, theirs, options", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_noise(ours, theirs, options, dtype):
    results = []
    for make in (
        lambda p: theirs(p, foreach=False, **options),
        lambda p: ours(p, variability=0, **options),
        lambda p: ours(p, variability=0, backend="reference", **options),
        lambda p: ours(p, variability=0, master_weights=True, **options),
    ):
        model = Model(dtype)
        optimizer = make(model.parameters())
        # Same gradients for all: a model that drifts by an ulp has other ones.
        generator = torch.Generator().manual_seed(1)
        for _ in range(10):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
            optimizer.step()
        results.append(weights(model))
    torchs, native, reference, master = results
    assert same(native, reference)
    assert same(native, master)
    for name in torchs:
        # Ten steps of a few roundings each, of numbers of order one.
        tolerance = 20 * torch.finfo(dtype).eps
        torch.testing.assert_close(native[name], torchs[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ours, theirs, options", CASES[1:2] + CASES[7:8])
def test_checkpoints_travel_both_ways(ours, theirs, options):
    """State keys are torch's: a torch.optim checkpoint goes on here and ours goes on there."""
    ends = []
    for first, second in ((theirs, ours), (ours, theirs), (theirs, theirs)):
        model = Model()

        def make(cls, model=model):
            extra = {} if cls is theirs else {"variability": 0}
            return cls(model.parameters(), **options, **extra)

        optimizer = make(first)
        train(model, optimizer, 3)
        resumed = make(second)
        resumed.load_state_dict(optimizer.state_dict())
        train(model, resumed, 3, start=3)
        ends.append(weights(model))
    for end in ends[:2]:
        for name in end:
            torch.testing.assert_close(end[name], ends[2][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ours, theirs, options", [CASES[1], CASES[6]])
def test_sixteen_bits_with_masters(ours, theirs, options):
    """bfloat16 weights are the rounded float32 weights of torch.optim, state included in float32."""
    model = Model(torch.bfloat16)
    exact = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = ours(model.parameters(), variability=0, **options)
    reference = theirs(exact, foreach=False, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        for p, q in zip(model.parameters(), exact):
            p.grad = torch.randn(p.shape, generator=generator).bfloat16()
            q.grad = p.grad.float()
        optimizer.step()
        reference.step()
    for p, q in zip(model.parameters(), exact):
        state = optimizer.state[p]
        assert all(
            x.dtype == torch.float32
            for k, x in state.items()
            if isinstance(x, torch.Tensor) and k not in ("step", "perturbation")
        )
        torch.testing.assert_close(state["master_param"], q.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(p, state["master_param"].bfloat16())


def test_schedulers_and_groups():
    model = Model()
    groups = [dict(params=model.conv.parameters(), lr=0.2), dict(params=model.linear.parameters(), variability=0.0)]
    optimizer = NVRMSGD(groups, lr=0.1, variability=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    for _ in range(4):
        train(model, optimizer, 1)
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.002, 0.001])
    linear = model.linear.weight.detach().clone()
    conv = model.conv.weight.detach().clone()
    optimizer.denoise()
    assert torch.equal(model.linear.weight, linear)
    assert not torch.equal(model.conv.weight, conv)
