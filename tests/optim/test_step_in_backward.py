"""The step in the backward pass: the same weights, and no two gradients at once."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
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


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


@pytest.mark.parametrize("change", ["unfrozen later", "group added later"])
def test_layers_that_are_trained_later(change):
    left = []
    for in_backward in (False, True):
        model = layers()
        if change == "unfrozen later":
            model[0].requires_grad_(False)
        params = model.parameters() if change == "unfrozen later" else model[1].parameters()
        optimizer = NVRMSGD(params, lr=0.1, seed=0)
        if in_backward:
            optimizer.step_in_backward()
        assert in_backward is False or model[0].weight.requires_grad == (change != "unfrozen later")
        for i in range(4):
            if i == 2 and change == "unfrozen later":
                model[0].requires_grad_(True)
            elif i == 2:
                optimizer.add_param_group({"params": list(model[0].parameters())})
            optimizer.zero_grad()
            model.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            if not in_backward:
                optimizer.step()
        left.append(weights(model))
    assert same(*left) and not torch.equal(left[0]["0.weight"], layers()[0].weight)


def test_hooks_and_schedulers_see_one_step_a_backward_pass():
    model = layers()
    optimizer = NVRMSGD(model.parameters(), lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step_in_backward()
    for _ in range(2):
        model(torch.ones(2, 4)).sum().backward()
    assert calls == ["pre", "post"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()


def test_reentrant_checkpoints_are_refused():
    layer = nn.Linear(4, 4)
    optimizer = NVRMSGD(layer.parameters(), lr=0.1)
    optimizer.step_in_backward()
    x = torch.ones(2, 4, requires_grad=True)
    before = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        checkpoint(layer, x, use_reentrant=True).sum().backward()
    assert torch.equal(before, layer.weight)
    layer.zero_grad()
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert not torch.equal(before, layer.weight)


def test_data_parallel_is_refused(monkeypatch):
    """As among two processes: the hook comes before DistributedDataParallel's reduction."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model = layers()
    NVRMSGD(model.parameters(), lr=0.1).step_in_backward()
    before = weights(model)
    with pytest.raises(RuntimeError, match="before DistributedDataParallel has averaged"):
        model(torch.ones(2, 4)).sum().backward()
    assert same(before, weights(model))
