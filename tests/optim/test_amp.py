"""torch.amp: autocast, GradScaler with skipped steps, 16-bit parameters, and ten thousand steps without drift."""

import pytest
import torch
from training import Model, loss_of, same, weights

from nvrm_fast import NVRMSGD, NVRMAdam, NVRMAdamW, PerturbedSGD
from nvrm_fast.optim import amp

#: fused=True: the kernel unscales and skips.
CLASSES = [
    (NVRMSGD, dict(lr=0.1, momentum=0.9, dampening=0.3, fused=True)),
    (NVRMAdam, dict(lr=0.01, fused=True)),
    (PerturbedSGD, dict(lr=0.1, momentum=0.9, fused=True)),
]
every_class = pytest.mark.parametrize("cls, options", CLASSES)
STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
#: Steps whose loss is made infinite; the first one among them.
BAD = (0, 3, 4)


def train_scaled(optimizer, model, scaler, steps, bad=BAD):
    for i in steps:
        optimizer.zero_grad()
        loss = loss_of(model, i) * (float("inf") if i in bad else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


@every_class
@STORAGES
def test_skipped_steps_leave_no_trace(cls, options, masters):
    """A run with infinite losses ends where the run without these batches ends (the scale is a power of two)."""
    left = []
    for bad in (BAD, ()):
        model = Model()
        optimizer = cls(model.parameters(), variability=0.05, master_weights=masters, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        before = weights(model)
        if bad:
            train_scaled(optimizer, model, scaler, [0])
            assert same(before, weights(model)) and not optimizer.state
        train_scaled(optimizer, model, scaler, [i for i in range(8) if bad or i not in BAD], bad)
        if bad:
            assert scaler.get_scale() == 1024.0 / 2 ** (len(bad) + 1)
        left.append((weights(model), optimizer.state_dict()["state"]))
    assert same(left[0][0], left[1][0])
    for a, b in zip(left[0][1].values(), left[1][1].values()):
        assert a.keys() == b.keys()
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


@STORAGES
def test_the_scale_inside_the_kernel_is_unscale_outside(masters):
    """With unscale_() (to clip gradients, for instance) the kernel finds them unscaled already."""
    left = []
    for unscale in (False, True):
        model = Model()
        optimizer = NVRMAdamW(model.parameters(), variability=0.05, master_weights=masters, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
        for i in range(5):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, i)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        left.append(weights(model))
    assert same(*left)


@every_class
def test_a_found_inf_that_comes_late(cls, options, monkeypatch):
    """As on a GPU: the host does not look at found_inf, the kernel skips, and weights and records are those of a run
    whose host looked."""
    left = []
    for late in (False, True):
        monkeypatch.setattr(amp, "is_skipped_here", (lambda found_inf: False) if late else amp.is_skipped_here)
        model = Model()
        optimizer = cls(model.parameters(), variability=0.05, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for i in range(8):
            optimizer.param_groups[0]["variability"] = 0.05 / (i + 1)
            optimizer.param_groups[0]["seed"] = i
            train_scaled(optimizer, model, scaler, [i])
            if hasattr(optimizer, "denoised"):
                with optimizer.denoised():
                    left.append(weights(model)) if i in BAD else None
        noisy = weights(model)
        if hasattr(optimizer, "denoise"):
            optimizer.denoise()
        state = {
            f"{i} {key}": value for i, each in optimizer.state_dict()["state"].items() for key, value in each.items()
        }
        left.append({**{f"noisy {k}": v for k, v in noisy.items()}, **weights(model), **state})
    half = len(left) // 2
    assert all(same(a, b) and a.keys() == b.keys() for a, b in zip(left[:half], left[half:]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_class
def test_autocast_with_skipped_steps(cls, options, dtype):
    """float32 parameters, 16-bit arithmetic in the forward pass: the loss comes down."""
    model = Model()
    optimizer = cls(model.parameters(), variability=0.01, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    losses = []
    for i in range(40):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = loss_of(model, i % 4) * (float("inf") if i in BAD else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert scaler.get_scale() == 64.0 / 2 ** len(BAD)
    assert sum(losses[-4:]) < 0.7 * sum(losses[5:9])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_parameters_with_scaled_gradients(dtype):
    """The parameters themselves in 16 bits, their clean weights in float32; with gradients that are given."""
    left = []
    for scale in (None, torch.tensor(1024.0)):
        params = [torch.nn.Parameter(torch.linspace(-1, 1, 300).to(dtype))]
        optimizer = NVRMAdamW(params, lr=1e-3, variability=0.05)
        for i in range(5):
            grad = torch.sin(torch.arange(300.0) + i).to(dtype)
            params[0].grad = grad if scale is None else (grad * scale).to(dtype)
            if scale is not None:
                optimizer.grad_scale, optimizer.found_inf = scale, torch.tensor(0.0)
            optimizer.step()
        assert optimizer.state[params[0]]["master_param"].dtype == torch.float32
        left.append({"noisy": params[0].detach(), **{k: v for k, v in optimizer.state[params[0]].items()}})
    assert all(torch.equal(torch.as_tensor(left[0][key]), torch.as_tensor(left[1][key])) for key in left[0])


STEPS = 10_000


@pytest.mark.parametrize("cls, options", CLASSES[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_drift_with_masters(cls, options, dtype):
    """After ten thousand draws the clean weights are those of the rule without noise, bit for bit."""
    masters = []
    for b in (0.0, 0.05):
        param = torch.nn.Parameter(torch.linspace(-1, 1, 200).to(dtype))
        optimizer = cls([param], variability=b, master_weights=True, **{**options, "lr": 1e-3})
        param.grad = torch.empty_like(param)
        phase = torch.arange(200.0)
        for i in range(STEPS):
            param.grad.copy_(torch.sin(phase + 0.37 * i))
            optimizer.step()
        optimizer.denoise()
        masters.append((optimizer.state[param]["master_param"].clone(), param.detach().clone()))
    assert torch.equal(masters[0][0], masters[1][0]) and torch.equal(masters[0][1], masters[1][1])
    assert torch.equal(masters[0][0].to(dtype), masters[0][1])


def test_bounded_drift_in_place():
    """In place a draw costs two roundings a step, each at most half an ulp of the largest value passed through: after n
    steps at most n * eps * (|w| + |noise|) in all, and about the square root of n of it in practice."""
    left = {}
    for dtype in (torch.float32, torch.float64):
        for b in (0.0, 0.05):
            param = torch.nn.Parameter(torch.linspace(-1, 1, 200).to(dtype))
            optimizer = NVRMSGD([param], lr=1e-3, variability=b, master_weights=False)
            param.grad = torch.empty_like(param)
            phase = torch.arange(200.0)
            for i in range(STEPS):
                param.grad.copy_(torch.sin(phase + 0.37 * i))
                optimizer.step()
            optimizer.denoise()
            left[dtype, b] = param.detach().clone()
        epsilon = torch.finfo(dtype).eps
        drift = (left[dtype, 0.05] - left[dtype, 0.0]).abs().max().item()
        largest = 1.0 + 0.05 * 5.1  # the noise's largest magnitude is 5.1 b
        assert 0 < drift <= STEPS * epsilon * largest
        assert drift <= 20 * STEPS**0.5 * epsilon * largest


@pytest.mark.parametrize("fused", [None, False, True])
def test_who_unscales(fused):
    """As with torch.optim: the kernel if fused=True, else the scaler, so that trainers can clip and see skipped steps;
    the weights are the same (the scale is a power of two)."""
    left = []
    for each in (fused, True):
        model = Model()
        optimizer = NVRMAdamW(model.parameters(), variability=0.05, seed=0, fused=each)
        assert optimizer._step_supports_amp_scaling == bool(each)
        train_scaled(optimizer, model, torch.amp.GradScaler("cpu", init_scale=1024.0), range(6))
        left.append(weights(model))
    assert same(*left)
