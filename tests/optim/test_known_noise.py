"""Noise whose record is gone from the optimizer: it is known in the process, taken off, and said."""

import collections
import warnings

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD, NVRMAdam, PerturbedSGD

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
every_class = pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])


def step(model, optimizer):
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()


def make(cls, masters):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    optimizer = cls(model.parameters(), lr=0.1, variability=0.1, master_weights=masters)
    clean = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer, clean


def assert_clean(model, clean):
    for p, before in zip(model.parameters(), clean):
        torch.testing.assert_close(p.detach(), before, rtol=0, atol=1e-6)


def replaced(model, optimizer):
    optimizer.state = collections.defaultdict(dict)
    return optimizer


def cleared(model, optimizer):
    optimizer.state.clear()
    return optimizer


def one_deleted(model, optimizer):
    del optimizer.state[model[1].weight]
    return optimizer


def state_of_a_fresh_one(model, optimizer):
    optimizer.load_state_dict(type(optimizer)(model.parameters(), lr=0.1, variability=0.1).state_dict())
    return optimizer


def new_one(model, optimizer):
    return type(optimizer)(model.parameters(), lr=0.1, variability=0.1)


def new_one_of_another_class(model, optimizer):
    return NVRMAdam(model.named_parameters(), lr=0.1, variability=0.05, seed=7)


@every_class
@STORAGES
@pytest.mark.parametrize(
    "lose", [replaced, cleared, one_deleted, state_of_a_fresh_one, new_one, new_one_of_another_class]
)
def test_taken_off_with_a_warning(cls, masters, lose):
    model, optimizer, clean = make(cls, masters)
    optimizer = lose(model, optimizer)
    with pytest.warns(UserWarning, match="parameter .* carried noise that this optimizer's state does not know"):
        step(model, optimizer)
    step(model, optimizer)
    optimizer.denoise()
    assert_clean(model, clean)


@every_class
def test_an_optimizer_whose_noise_stays_takes_it_off_too(cls):
    model, _, clean = make(cls, False)
    with pytest.warns(UserWarning, match="carried noise"):
        step(model, PerturbedSGD(model.parameters(), lr=0.0))
    assert_clean(model, clean)


@every_class
@STORAGES
@pytest.mark.parametrize("write", ["copy_", "data.copy_"])
def test_weights_that_were_put_in_since_are_left_alone(cls, masters, write):
    """Values tell, not versions: a training is begun again from other weights, and nothing is taken off them."""
    model, optimizer, _ = make(cls, masters)
    torch.manual_seed(1)
    fresh = [torch.randn_like(p) * 0.05 for p in model.parameters()]
    with torch.no_grad():
        for p, value in zip(model.parameters(), fresh):
            (p.data if write == "data.copy_" else p).copy_(value)
    again = cls([p for p in model.parameters() if p.dim() > 1], lr=0.1, variability=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, again)
    again.denoise()
    assert_clean(model, fresh)


@every_class
@STORAGES
def test_reset_state_leaves_clean_weights_without_a_word(cls, masters):
    model, optimizer, clean = make(cls, masters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.reset_state()
        assert not optimizer.state
        assert_clean(model, clean)
        step(model, optimizer)
        optimizer.denoise()
    assert_clean(model, clean)


def test_after_denoise_a_new_optimizer_says_nothing():
    model, optimizer, clean = make(NVRMSGD, False)
    optimizer.denoise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = NVRMSGD(model.parameters(), lr=0.1)
        step(model, again)
    again.denoise()
    assert_clean(model, clean)


@pytest.mark.parametrize("is_reloaded", [False, True], ids=["noise is on", "weights are put in"])
def test_small_and_large_parameters_go_by_the_others(is_reloaded):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 3))
    clean = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.1)
    for _ in range(3):
        step(model, optimizer)
    if is_reloaded:
        model.load_state_dict(clean)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fresh = NVRMSGD(model.parameters(), lr=0.1, variability=0.0)
        step(model, fresh)
    assert len(said) == (0 if is_reloaded else 6)
    assert_clean(model, clean.values())


@STORAGES
@pytest.mark.parametrize("numel", [1, 1000])
def test_memory_that_a_parameter_got_since(masters, numel):
    """`p.data = x` while the noise is off, a step there, and the state is lost: the record goes by the parameter."""
    param = nn.Parameter(torch.zeros(numel))
    optimizer = NVRMSGD([param], lr=0.1, variability=0.1, master_weights=masters)
    for _ in range(2):
        param.grad = torch.zeros(numel)
        optimizer.step()
    optimizer.param_groups[0]["variability"] = 0.0
    optimizer.step()
    param.data = torch.full((numel,), 2.0)
    optimizer.param_groups[0]["variability"] = 0.1
    optimizer.step()
    optimizer.state.clear()
    with pytest.warns(UserWarning, match="carried noise"):
        optimizer.step()
    optimizer.denoise()
    torch.testing.assert_close(param.detach(), torch.full((numel,), 2.0), rtol=0, atol=1e-6)
