"""The step in the backward pass: the same weights, and no two gradients at once."""

import copy
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


def unedited(model, optimizer):
    return optimizer


def first_taken_out(model, optimizer):
    for key in ("params", "param_names"):
        optimizer.param_groups[0][key].pop(0)
    return optimizer


def moved_to_another_group(model, optimizer):
    optimizer.add_param_group({"params": [("late", model.late)], "lr": 0.5})
    for key in ("params", "param_names"):
        optimizer.param_groups[1][key].append(optimizer.param_groups[0][key].pop(0))
    return optimizer


def put_into_the_list(model, optimizer):
    optimizer.param_groups[0]["params"].append(model.late)
    optimizer.param_groups[0]["param_names"].append("late")
    return optimizer


def state_loaded(model, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return optimizer


def state_loaded_with_another_rate(model, optimizer):
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 0.5
    optimizer.load_state_dict(state)
    return optimizer


def reset(model, optimizer):
    optimizer.reset_state()
    return optimizer


EDITS = [
    unedited, first_taken_out, moved_to_another_group, put_into_the_list, state_loaded, state_loaded_with_another_rate,
    reset,
]  # fmt: skip


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("edit", EDITS)
def test_groups_that_are_edited_and_states_that_are_loaded(edit, masters):
    """As with step(), whatever is changed between two backward passes."""
    left = []
    for in_backward in (False, True):
        model = layers()
        model.late = nn.Parameter(torch.ones(4))
        params = [item for item in model.named_parameters() if item[0] != "late"]
        optimizer = NVRMSGD(params, lr=0.1, momentum=0.9, variability=0.05, master_weights=masters)
        if in_backward:
            optimizer.step_in_backward()
        for i in range(5):
            if i == 2:
                optimizer = edit(model, optimizer)
            if i == 3:
                for group in optimizer.param_groups:
                    group["lr"] *= 0.5
            model.zero_grad()
            (model(torch.ones(2, 4)) * model.late).square().sum().backward()
            if not in_backward:
                optimizer.step()
        left.append({**weights(model), "steps": [int(state["step"]) for state in optimizer.state.values()]})
    assert sorted(left[0].pop("steps")) == sorted(left[1].pop("steps"))
    assert same(*left)
