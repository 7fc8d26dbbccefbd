"""timm's ModelEmaV3 and diffusers' EMAModel in a training loop: clean averages in `denoised()`, a warning elsewhere.

A class of the same calls is tried in every run, too, because neither library need be installed.
"""

import copy
import importlib.util
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from training import loss_of, same, weights

from nvrm_fast import NVRMSGD, WeightNoise
from nvrm_fast.optim import averaging

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
DECAY = 0.9


class ImitatedTimm(nn.Module):
    """What ModelEmaV3 does by default."""

    def __init__(self, model, decay):
        super().__init__()
        self.module, self.decay = copy.deepcopy(model).eval(), decay

    @torch.no_grad()
    def update(self, model, step=None):
        for mine, theirs in zip(self.module.state_dict().values(), model.state_dict().values()):
            mine.lerp_(theirs, weight=1 - self.decay) if mine.is_floating_point() else mine.copy_(theirs)


class ImitatedDiffusers:
    """What EMAModel does with min_decay = decay."""

    def __init__(self, parameters, decay, min_decay):
        self.shadow_params, self.decay = [p.clone().detach() for p in parameters], decay

    @torch.no_grad()
    def step(self, parameters):
        for mine, theirs in zip(self.shadow_params, list(parameters)):
            mine.sub_((1 - self.decay) * (mine - theirs))


def timms():
    """The class out of timm's own file: the package imports torchvision, which may be another build than torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        pytest.skip("timm is not installed: ModelEmaV3 is tried by an imitation alone")
    file = importlib.util.spec_from_file_location("timm_model_ema", Path(spec.origin).parent / "utils" / "model_ema.py")
    module = importlib.util.module_from_spec(file)
    file.loader.exec_module(module)
    return module.ModelEmaV3


def diffusers():
    training_utils = pytest.importorskip(
        "diffusers.training_utils", reason="diffusers is not installed: EMAModel is tried by an imitation alone"
    )
    return training_utils.EMAModel


class Timm:
    module, name, line = "timm.utils.model_ema", "ModelEmaV3", r"model_ema\.update\(model, step\)"

    def __init__(self, cls, model):
        self.model, self.average = model, cls(model, decay=DECAY)

    def update(self):
        self.average.update(self.model)

    def values(self):
        return [p.detach() for p in self.average.module.parameters()]


class Diffusers:
    module, name, line = "diffusers.training_utils", "EMAModel", r"ema\.step\(model\.parameters\(\)\)"

    def __init__(self, cls, model):
        self.model, self.average = model, cls(model.parameters(), decay=DECAY, min_decay=DECAY)

    def update(self):
        self.average.step(self.model.parameters())

    def values(self):
        return list(self.average.shadow_params)


KINDS = {
    "timm": (Timm, timms),
    "timm imitated": (Timm, lambda: ImitatedTimm),
    "diffusers": (Diffusers, diffusers),
    "diffusers imitated": (Diffusers, lambda: ImitatedDiffusers),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def make(kind, monkeypatch):
    """Builds the average; its class is where the library has it, in a process that has not warned yet."""
    wrapper, find = KINDS[kind]
    found = find()
    cls = type(wrapper.name, (found,), {})  # of its own: nothing is left on the library's
    monkeypatch.setitem(sys.modules, wrapper.module, types.SimpleNamespace(**{wrapper.name: cls}))
    averaging.unwatch()
    monkeypatch.setattr(averaging, "_watched_before", [])
    yield lambda model: wrapper(cls, model)
    averaging.unwatch()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.Tanh(), nn.Linear(16, 7))

    def forward(self, x):
        return self.layers(x)


def step(model, optimizer, i):
    optimizer.zero_grad()
    loss_of(model, i).backward()
    optimizer.step()


@every_kind
@STORAGES
def test_inside_denoised_the_average_is_that_of_the_clean_weights(make, masters):
    model = Small()
    optimizer = NVRMSGD(model.parameters(), lr=0.05, momentum=0.9, variability=0.1, master_weights=masters)
    ema = make(model)
    expected = [p.detach().double() for p in model.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(5):
            step(model, optimizer, i)
            noisy = weights(model)
            with optimizer.denoised():
                clean = [p.detach().double() for p in model.parameters()]
                ema.update()
            assert same(noisy, weights(model))
            if i == 0 and not torch.allclose(ema.values()[0].double(), expected[0] * DECAY + clean[0] * (1 - DECAY)):
                expected = clean  # diffusers takes the first weights over as they are
            else:
                expected = [a * DECAY + b * (1 - DECAY) for a, b in zip(expected, clean)]
    for a, b in zip(ema.values(), expected):
        torch.testing.assert_close(a.double(), b, atol=1e-6, rtol=0)


@every_kind
@pytest.mark.parametrize("around", [False, True], ids=["NVRMSGD", "WeightNoise"])
def test_elsewhere_it_is_said_once_with_the_line_that_mends_it(make, around):
    model = Small()
    options = dict(variability=0.1)
    optimizer = (
        WeightNoise(torch.optim.Adam(model.parameters()), **options)
        if around
        else NVRMSGD(model.parameters(), lr=0.05, **options)
    )
    ema = make(model)
    step(model, optimizer, 0)
    with pytest.warns(UserWarning, match=rf"with optimizer\.denoised\(\): {ema.line}") as said:
        ema.update()
    assert said[0].filename == __file__
    before = ema.values()[0].clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, optimizer, 1)
        ema.update()
    assert not torch.equal(before, ema.values()[0])  # the parameters were handed on


@every_kind
def test_clean_weights_are_averaged_without_a_word(make):
    model = Small()
    optimizer = NVRMSGD(model.parameters(), lr=0.05, variability=0.1)
    ema = make(model)
    step(model, optimizer, 0)
    optimizer.denoise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ema.update()
