"""The step in the backward pass: the same weights, and no two gradients at once."""

import pytest
import torch
from torch import nn
from training import Model, loss_of, same, weights

from nvrm_fast import NVRMSGD, NVRMAdamW, PerturbedSGD

CLASSES = [(NVRMSGD, dict(lr=0.1, momentum=0.9)), (NVRMAdamW, dict(master_weights=True)), (PerturbedSGD, dict(lr=0.1))]


@pytest.mark.parametrize("cls, options", CLASSES)
def test_the_same_as_step(cls, options):
    left = []
    for in_backward in (False, True):
        model = Model()
        optimizer = cls(model.parameters(), variability=0.05, **options)
        if in_backward:
            optimizer.step_in_backward()
        for i in range(5):
            optimizer.param_groups[0]["variability"] = 0.05 / (i + 1)
            optimizer.zero_grad()
            loss_of(model, i).backward()
            optimizer.step()
            assert not in_backward or all(p.grad is None for p in model.parameters())
        left.append(weights(model))
    assert same(*left)


def test_gradients_are_freed_layer_by_layer():
    model = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(6)])
    optimizer = NVRMSGD(model.parameters(), lr=0.1)
    most = 0

    def count(*_):
        nonlocal most
        most = max(most, sum(p.grad is not None for p in model.parameters()))

    for p in model.parameters():  # before the optimizer's own hooks: its parameter's gradient is there
        p.register_post_accumulate_grad_hook(count)
    optimizer.step_in_backward()
    model(torch.ones(2, 4)).sum().backward()
    assert most == 1


def test_remove_ends_it():
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1)
    with optimizer.step_in_backward():
        loss_of(model, 0).backward()
    before = weights(model)
    loss_of(model, 1).backward()
    assert same(before, weights(model)) and model.scalar.grad is not None


def test_refused_while_the_noise_is_off():
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1)
    optimizer.step_in_backward()
    loss_of(model, 0).backward()
    with optimizer.denoised():
        clean = weights(model)
        with pytest.raises(RuntimeError, match="while the noise is off for evaluation"):
            loss_of(model, 1).backward()
        assert same(clean, weights(model))
