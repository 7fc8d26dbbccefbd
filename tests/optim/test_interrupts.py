"""Ctrl-C at any moment leaves weights and records that fit together."""

import pytest
import torch

from nvrm_fast import NVRMSGD
from nvrm_fast.ops import registry
from nvrm_fast.optim import base, perturbation

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


class Interrupter:
    """Raises KeyboardInterrupt around one call of an operator, as Python does when a signal came while C ran."""

    def __init__(self, monkeypatch):
        self.name, self.call, self.after, self.calls = "", 0, False, 0
        for module, name, operator in (
            (base, "step_", "step_"), (base, "steps_", "step_"), (perturbation, "reperturb_", "reperturb_"),
        ):  # fmt: skip
            monkeypatch.setattr(module, name, self.wrap(operator, getattr(module, name)))

    def wrap(self, name, operator):
        def wrapped(*args, **kwargs):
            mine = name == self.name and self.calls == self.call
            self.calls += name == self.name
            if mine and not self.after:
                raise KeyboardInterrupt
            result = operator(*args, **kwargs)
            if mine:
                raise KeyboardInterrupt
            return result

        return wrapped

    def arm(self, name, call, after):
        self.name, self.call, self.after, self.calls = name, call, after, 0

    def disarm(self):
        self.name = ""


@pytest.fixture
def interrupter(monkeypatch):
    return Interrupter(monkeypatch)


def make(masters, **options):
    """Two batches (float32 and float64), learning rate 0: the clean weights never change."""
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(1000, generator=generator).to(dtype)) for dtype in (torch.float32, torch.float64)
    ]
    for p in params:
        p.grad = torch.ones_like(p)
    clean = [p.detach().clone() for p in params]
    return params, clean, NVRMSGD(params, lr=0.0, variability=0.1, master_weights=masters, **options)


def change_b(optimizer):
    optimizer.param_groups[0]["variability"] = 0.03
    optimizer.step()


def enter_and_leave(optimizer):
    with optimizer.denoised():
        pass


def eval_and_train(optimizer):
    optimizer.eval()
    optimizer.train()


#: What is interrupted: steps before, options, the action, the operator.
CASES = {
    "first step": (0, {}, lambda o: o.step(), "step_"),
    "step": (2, {}, lambda o: o.step(), "step_"),
    "change of b": (2, {}, change_b, "step_"),
    "step that denoises": (2, dict(denoise_every=3), lambda o: o.step(), "step_"),
    "denoise": (2, {}, lambda o: o.denoise(), "reperturb_"),
    "eval and train": (2, {}, eval_and_train, "reperturb_"),
    "denoised": (2, {}, enter_and_leave, "reperturb_"),
}


@STORAGES
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(8))
@pytest.mark.parametrize("backend", [None, "reference"], ids=["fastest", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_interrupted(interrupter, case, backend, call, after, masters):
    """Before or after any of the operator's calls; then training goes on, and the clean weights are what they were.
    Native code does both batches of a step in one call."""
    steps, options, action, name = CASES[case]
    at_once = steps > 0 and name == "step_" and registry.choose(name, torch.device("cpu"), backend) == "native"
    params, clean, optimizer = make(masters, backend=backend, **options)
    for _ in range(steps):
        optimizer.step()
    interrupter.arm(name, call, after)
    try:
        action(optimizer)
    except KeyboardInterrupt:
        pass
    else:
        if call < (1 if at_once else 2):
            pytest.fail("not interrupted")
    interrupter.disarm()
    if optimizer._is_evaluating():  # interrupted in train(): it is called again
        optimizer.train()

    def assert_clean():
        for p, before in zip(params, clean):
            # In place: the roundings of one addition and one subtraction, half a spacing each of weights below 8.
            tolerance = dict(atol=0) if masters else dict(atol=4.8e-7)
            torch.testing.assert_close(p.detach(), before, rtol=0, **tolerance)

    with optimizer.denoised():
        assert_clean()
    optimizer.step()
    with optimizer.denoised():
        assert_clean()
    optimizer.denoise()
    assert_clean()


@STORAGES
def test_an_interrupted_eval_has_not_happened(interrupter, masters):
    params, _, optimizer = make(masters)
    optimizer.step()
    noisy = [p.detach().clone() for p in params]
    interrupter.arm("reperturb_", 1, True)
    with pytest.raises(KeyboardInterrupt):
        optimizer.eval()
    assert all(torch.equal(p, value) for p, value in zip(params, noisy))
    optimizer.step()


@STORAGES
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(2))
@pytest.mark.parametrize("then", ["denoised", "eval", "denoise", "train"])
def test_after_an_interrupted_train_every_way_on_is_right(interrupter, then, call, after, masters):
    """It is still evaluation mode, with some of the noise on: whoever evaluates then sees none of it."""
    params, clean, optimizer = make(masters)
    optimizer.step()
    noisy = [p.detach().clone() for p in params]
    optimizer.eval()
    off = [p.detach().clone() for p in params]
    if not masters:  # in place train() copies, and calls no operator, unless something was written
        for p, before in zip(params, clean):
            p.data.copy_(before + 1.0)
        off = [p.detach().clone() for p in params]
    interrupter.arm("reperturb_", call, after)
    with pytest.raises(KeyboardInterrupt):
        optimizer.train()
    interrupter.disarm()

    def assert_off():
        for p, before in zip(params, off):
            torch.testing.assert_close(p.detach(), before, rtol=0, atol=0 if masters else 4.8e-7)

    if then == "denoised":
        with optimizer.denoised():
            assert_off()
    else:
        getattr(optimizer, then)()
        if then != "train":
            assert_off()
    if then != "denoise":
        optimizer.train()
        for p, before in zip(params, noisy if masters else [x - c + o for x, c, o in zip(noisy, clean, off)]):
            torch.testing.assert_close(p.detach(), before, rtol=0, atol=0 if masters else 1e-6)
    optimizer.step()
    optimizer.denoise()
    assert_off()
