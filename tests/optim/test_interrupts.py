"""Ctrl-C at any moment leaves weights and records that fit together."""

import pytest
import torch

from nvrm_fast import NVRMSGD
from nvrm_fast.contract.record import SCALE
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

    def interrupts(self, action, name, call, after=True):
        """The action ends in KeyboardInterrupt around this call."""
        self.arm(name, call, after)
        with pytest.raises(KeyboardInterrupt):
            action()
        self.disarm()


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
    interrupter.interrupts(optimizer.eval, "reperturb_", 1)
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
    interrupter.interrupts(optimizer.train, "reperturb_", call, after)

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


def train_in_new_memory(optimizer, params, interrupter):
    """Other weights in evaluation mode: train() calls the operator, which is interrupted."""
    optimizer.eval()
    for p in params:
        p.data = p.data + 1
    # In place two calls before look whether these are the weights that eval() left.
    interrupter.interrupts(optimizer.train, "reperturb_", 1 if optimizer.param_groups[0]["master_weights"] else 3)
    return 1.0


def train_in_a_copy(optimizer, params, interrupter):
    """The same weights in other memory: in place train() copies, and calls no operator."""
    optimizer.eval()
    for p in params:
        p.data = p.data.clone()
    optimizer.train()
    return 0.0


def step_in_new_memory(optimizer, params, interrupter):
    with optimizer.denoised():
        for p in params:
            p.data = p.data + 1
    interrupter.interrupts(optimizer.step, "step_", 0)
    return 1.0


def step_in_a_copy(optimizer, params, interrupter):
    """Noise and all is moved, and the step's plan is still good."""
    optimizer.step()
    for p in params:
        p.data = p.data.clone()
    interrupter.interrupts(optimizer.step, "step_", 0)
    return 0.0


@STORAGES
@pytest.mark.parametrize("backend", [None, "reference"], ids=["fastest", "reference"])
@pytest.mark.parametrize("move", [train_in_new_memory, train_in_a_copy, step_in_new_memory, step_in_a_copy])
def test_noise_in_new_memory_is_known_at_once(interrupter, move, backend, masters):
    """Parameters get other memory, noise comes on it, and the state is lost: what the process knows takes it off."""
    params, clean, optimizer = make(masters, backend=backend)
    optimizer.step()
    more = move(optimizer, params, interrupter)
    assert any(optimizer.state[p]["perturbation"][SCALE] != 0 for p in params)
    optimizer.state.clear()
    with pytest.warns(UserWarning, match="carried noise that this optimizer's state does not know"):
        optimizer.param_groups[0]["lr"] = 1e-30  # with 0 a first step only makes the state
        optimizer.step()
    optimizer.denoise()
    for p, before in zip(params, clean):
        torch.testing.assert_close(p.detach(), before + more, rtol=0, atol=1e-6)
