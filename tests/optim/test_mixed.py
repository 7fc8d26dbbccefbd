"""mixed_gradient against two models side by side, and a training loop written by hand."""

import copy

import pytest
import torch
from training import Model, loss_of, same, train, weights

from nvrm_fast import NVRMSGD, MomentumSAM, WeightNoise, mixed_gradient, noise

MAKE = {
    "NVRMSGD": lambda params: NVRMSGD(params, lr=0.1, momentum=0.9, variability=0.05, seed=3),
    "masters": lambda params: NVRMSGD(params, lr=0.1, momentum=0.9, variability=0.05, seed=3, master_weights=True),
    "WeightNoise": lambda params: WeightNoise(torch.optim.Adam(params, lr=0.01), variability=0.05),
    "MomentumSAM": lambda params: MomentumSAM(torch.optim.SGD(params, lr=0.1, momentum=0.9), rho=0.3),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("mix", [0.0, 0.25, 0.5, 1.0])
def test_the_gradient_is_that_of_two_models(make, mix):
    model = Model()
    optimizer = make(model.parameters())
    train(model, optimizer, 2)
    noisy = copy.deepcopy(model)
    with optimizer.denoised():
        clean = copy.deepcopy(model)
    optimizer.zero_grad()
    before = weights(model)
    loss = mixed_gradient(optimizer, lambda i: loss_of(model, i), 10, 11, mix=mix)
    assert same(before, weights(model))
    noisy.zero_grad()
    clean.zero_grad()
    parts = (loss_of(noisy, 10), mix), (loss_of(clean, 11), 1 - mix)
    for part, share in parts:
        (share * part).backward()
    torch.testing.assert_close(loss, sum(share * part.detach() for part, share in parts))
    for p, a, b in zip(model.parameters(), noisy.parameters(), clean.parameters()):
        assert p.grad is None and a.grad is None or torch.equal(p.grad, a.grad + b.grad)


def test_training_is_a_loop_written_by_hand():
    """m-RWP with noise kept in memory: gradients at w + eps and at w, the rule on w. float64: roundings are 1e-16."""
    model, twin = Model(torch.float64), Model(torch.float64)
    optimizer = NVRMSGD(model.parameters(), lr=0.1, momentum=0.9, variability=0.05, seed=3)
    bare = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    eps = [torch.zeros_like(p) for p in twin.parameters()]
    for i in range(10):
        optimizer.zero_grad()
        mixed_gradient(optimizer, lambda i: loss_of(model, i), 2 * i, 2 * i + 1, mix=0.3)
        optimizer.step()
        bare.zero_grad()
        for sign, share, batch in ((1, 0.3, 2 * i), (-1, 0.7, 2 * i + 1)):
            with torch.no_grad():
                for p, e in zip(twin.parameters(), eps):
                    p.add_(e, alpha=sign)
            (share * loss_of(twin, batch)).backward()
        bare.step()
        for stream, p in enumerate(twin.parameters()):
            if p.grad is not None:
                draw = noise(p.numel(), seed=3, stream=stream, step=i + 1, scale=0.05)
                eps[stream] = draw.view(p.shape).double()
    with optimizer.denoised():
        for a, b in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_batches_add_up_and_a_scaler_may_do_the_backward_pass():
    model = Model()
    optimizer = MAKE["masters"](model.parameters())
    train(model, optimizer, 1)
    optimizer.zero_grad()
    loss = lambda i: loss_of(model, i)  # noqa: E731
    mixed_gradient(optimizer, loss, 1, 2)
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    mixed_gradient(optimizer, loss, 1, 2)
    for a, p in zip(once, (p for p in model.parameters() if p.grad is not None)):
        torch.testing.assert_close(2 * a, p.grad)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer.zero_grad()
    mixed_gradient(optimizer, loss, 1, 2, backward=lambda loss: scaler.scale(loss).backward())
    for a, p in zip(once, (p for p in model.parameters() if p.grad is not None)):
        torch.testing.assert_close(8 * a, p.grad)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(mix=1.5), ValueError, r"mix must be in \[0, 1\], got 1.5"),
        (dict(mix=float("nan")), ValueError, "mix must be in"),
        (dict(optimizer=torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])), TypeError, "one that perturbs"),
        (dict(loss=lambda i: torch.ones(3, requires_grad=True)), TypeError, "a tensor of one element"),
    ],
)
def test_refused(change, error, message):
    model = Model()
    call = dict(optimizer=NVRMSGD(model.parameters()), loss=lambda i: loss_of(model, i), mix=0.5) | change
    with pytest.raises(error, match=message):
        mixed_gradient(call["optimizer"], call["loss"], 0, 1, mix=call["mix"])
    assert all(p.grad is None for p in model.parameters())


def test_refused_where_there_is_no_noise():
    model = Model()
    optimizer = NVRMSGD(model.parameters())
    train(model, optimizer, 1)
    with optimizer.denoised(), pytest.raises(RuntimeError, match="off for evaluation"):
        mixed_gradient(optimizer, lambda i: loss_of(model, i), 0, 1)
