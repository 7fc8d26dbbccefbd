"""Signals wait for changes that are right only as a whole, and are not lost."""

import signal
import threading

import pytest
import torch
from torch import nn

from nvrm_fast import MomentumSAM
from nvrm_fast.optim import momentum_sam
from nvrm_fast.optim.uninterrupted import uninterrupted


def test_a_signal_waits_and_then_does_what_it_does():
    done = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")
    assert done == ["all of it"] and signal.getsignal(signal.SIGINT) is before


def test_a_users_handler_gets_its_signal():
    came = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append((number, frame is not None)))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGUSR1)
            assert came == []
        assert came == [(signal.SIGUSR1, True)]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_errors_pass_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="in the block"):
        with uninterrupted():
            raise ValueError("in the block")
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nothing_is_touched():
    handlers = []

    def run():
        with uninterrupted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def step(model, optimizer):
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()


@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("method", ["perturb", "restore", "at"])
@pytest.mark.parametrize("action", ["step", "eval", "train", "denoise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_momentum_sam_is_never_half_moved(monkeypatch, dtype, action, method, call):
    """Ctrl-C while any parameter is moved; then the clean weights are what they were. Learning rate 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).to(dtype)
    clean = [p.detach().clone() for p in model.parameters()]
    optimizer = MomentumSAM(torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9), rho=0.5)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    if action == "train":
        optimizer.eval()
    real, calls = getattr(momentum_sam._Moved, method), []

    def interrupted(moved, *arguments):
        result = real(moved, *arguments)
        calls.append(moved)
        if len(calls) == call + 1:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(momentum_sam._Moved, method, interrupted)
    try:
        step(model, optimizer) if action == "step" else getattr(optimizer, action)()
    except KeyboardInterrupt:
        pass
    monkeypatch.setattr(momentum_sam._Moved, method, real)
    if optimizer._is_evaluating():
        optimizer.train()
    with optimizer.denoised():
        for p, before in zip(model.parameters(), clean):
            # float32 carries the roundings of two subtractions and additions of values below 1.
            torch.testing.assert_close(p.detach(), before, rtol=0, atol=0 if dtype == torch.bfloat16 else 2.5e-7)
    optimizer.denoise()
    for p, before in zip(model.parameters(), clean):
        torch.testing.assert_close(p.detach(), before, rtol=0, atol=0 if dtype == torch.bfloat16 else 2.5e-7)
