"""The record of the noise travels with its parameter: whatever is loaded, edited or shared, the right noise comes off.

Learning rate 0 (or a tiny one), so that the clean weights stay what they were at the start.
"""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

from nvrm_fast import NVRMSGD, NVRMAdam

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
every_class = pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])


def build():
    """Four parameters of one shape: nothing but their identity tells them apart."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(16, 16, bias=False) for _ in range(4)])


def trained(cls, masters, named=False, count=3):
    model = build()
    optimizer = cls(model.named_parameters() if named else model.parameters(), **options(masters))
    for i in range(count):
        step(model, optimizer, 1.0 + i)
    return model, optimizer


def options(masters):
    return dict(lr=1e-12, variability=0.1, master_weights=masters)


def step(model, optimizer, gradient=1.0):
    for p in model.parameters():
        p.grad = torch.full_like(p, gradient)
    optimizer.step()


def assert_clean(model, but=()):
    for i, (p, before) in enumerate(zip(model.parameters(), build().parameters())):
        if i not in but:
            torch.testing.assert_close(p.detach(), before.detach(), rtol=0, atol=1e-6)


def noise_is_on(model):
    return all((p - before).std() > 0.05 for p, before in zip(model.parameters(), build().parameters()))


def other_order(params):
    return [{"params": [params[i] for i in (2, 0, 3, 1)]}], (2, 0, 3, 1)


def other_groups(params):
    return [{"params": [params[3], params[1]], "weight_decay": 0.0}, {"params": [params[0], params[2]]}], (3, 1, 0, 2)


def a_part(params):
    return [{"params": [params[3], params[1]]}], (3, 1)


@every_class
@STORAGES
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("arrangement", [other_order, other_groups, a_part])
def test_a_state_loaded_by_parameter_into_another_arrangement(cls, masters, named, arrangement):
    model, optimizer = trained(cls, masters, named)
    saved = copy.deepcopy(optimizer.state_dict())
    again = build()
    again.load_state_dict(model.state_dict())
    params = list(again.named_parameters() if named else again.parameters())
    groups, order = arrangement(params)
    new = cls(groups, **options(masters))
    mine = new.state_dict()
    mine["state"] = {k: saved["state"][i] for k, i in enumerate(order)}
    new.load_state_dict(mine)
    assert noise_is_on(again)
    step(again, new)
    new.denoise()
    assert_clean(again, but=set(range(4)) - set(order))


@every_class
@STORAGES
@pytest.mark.parametrize("flat", [False, True])
def test_torchs_state_dict_functions_into_another_order(cls, masters, flat):
    """They match by the model's names: what was saved from one order and grouping is loaded into another."""
    settings = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = trained(cls, masters)
    saved = get_optimizer_state_dict(model, optimizer, options=settings)
    again = build()
    again.load_state_dict(model.state_dict())
    new = cls(list(again.parameters())[::-1], **options(masters))
    set_optimizer_state_dict(again, new, copy.deepcopy(saved), options=settings)
    assert noise_is_on(again)
    step(again, new)
    new.denoise()
    assert_clean(again)


@every_class
@STORAGES
@pytest.mark.parametrize("is_on", [True, False])
def test_a_group_edited_while_noise_is_on(cls, masters, is_on):
    model, optimizer = trained(cls, masters)
    if not is_on:
        optimizer.eval()
    optimizer.param_groups[0]["params"].pop(0)
    optimizer.param_groups[0]["params"].reverse()
    if not is_on:
        optimizer.train()
    step(model, optimizer)
    optimizer.denoise()
    assert_clean(model, but={0})


@every_class
@STORAGES
def test_two_runs_that_begin_with_one_state_share_nothing(cls, masters):
    model, optimizer = trained(cls, masters)
    again = copy.deepcopy(model)
    new = cls(again.parameters(), **options(masters))
    new.load_state_dict(optimizer.state_dict())  # not copied
    mine = {x.data_ptr() for state in optimizer.state.values() for x in state.values()}
    assert not mine & {x.data_ptr() for state in new.state.values() for x in state.values()}
    for _ in range(2):
        step(model, optimizer)
    step(again, new)
    for own, each in ((model, optimizer), (again, new)):
        each.denoise()
        assert_clean(own)


@STORAGES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hook_after_the_load_has_the_last_word(masters, dtype):
    model = build().to(dtype)
    optimizer = NVRMAdam(model.parameters(), lr=1e-3, variability=0.1, master_weights=masters)
    step(model, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())

    def forget_moments(own):
        for state in own.state.values():
            state["exp_avg"].zero_()

    new = NVRMAdam(model.parameters(), lr=1e-3, variability=0.1, master_weights=masters)
    new.register_load_state_dict_post_hook(forget_moments)
    new.load_state_dict(saved)
    assert all(not state["exp_avg"].any() and state["exp_avg_sq"].any() for state in new.state.values())


@STORAGES
def test_a_hook_before_the_load_may_bring_the_state_into_order(masters):
    model, optimizer = trained(NVRMAdam, masters)
    saved = copy.deepcopy(optimizer.state_dict())
    moments = [state["exp_avg_sq"].clone() for state in optimizer.state.values()]
    new = NVRMAdam(list(model.parameters())[::-1], **options(masters))

    def reverse(own, state_dict):
        return {**state_dict, "state": {3 - i: state for i, state in state_dict["state"].items()}}

    new.register_load_state_dict_pre_hook(reverse)
    new.load_state_dict(saved)
    for p, moment in zip(model.parameters(), moments):
        assert torch.equal(new.state[p]["exp_avg_sq"], moment)
    step(model, new)
    new.denoise()
    assert_clean(model)


@every_class
@STORAGES
def test_what_others_keep_in_the_state_is_left_alone(cls, masters):
    """An average in float64, a counter, a tensor of another shape, a list."""
    model, optimizer = trained(cls, masters)
    kept = {}
    for p in model.parameters():
        kept[p] = {"mean": p.detach().double(), "count": 3, "norms": torch.arange(2), "notes": [1, 2]}
        optimizer.state[p].update(kept[p])
    step(model, optimizer)
    with optimizer.denoised():
        assert_clean(model)
    again = build()
    again.load_state_dict(model.state_dict())
    new = cls(again.parameters(), **options(masters))
    new.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for own, each in ((model, optimizer), (again, new)):
        step(own, each)
        for p, theirs in zip(own.parameters(), kept.values()):
            state = each.state[p]
            assert state["mean"].dtype == torch.float64 and torch.equal(state["mean"], theirs["mean"])
            assert state["count"] == 3 and torch.equal(state["norms"], torch.arange(2)) and state["notes"] == [1, 2]
        each.denoise()
        assert_clean(own)


@every_class
def test_a_parameter_whose_state_somebody_has_looked_at(cls):
    """optimizer.state makes an empty entry for whoever asks: it is no record."""
    model = build()
    optimizer = cls(model.parameters(), **options(False))
    assert not optimizer.state[model[0].weight]
    assert not optimizer.is_perturbed()
    with optimizer.denoised():
        pass
    for p in list(model.parameters())[1:]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.is_perturbed()
    optimizer.denoise()
    assert_clean(model)


@every_class
@STORAGES
def test_another_default_device(cls, masters):
    """Nothing that the step makes for itself lies anywhere but with the parameters."""
    for backend in (None, "reference"):
        model = build()
        optimizer = cls(model.parameters(), backend=backend, **options(masters))
        with torch.device("meta"):
            for p in model.parameters():
                p.grad = torch.ones(16, 16, device="cpu")
            optimizer.step()
            optimizer.eval()
            optimizer.train()
            optimizer.step()
            optimizer.denoise()
        assert_clean(model)


@pytest.mark.parametrize("dtype, b", [(torch.float32, 0.0), (torch.float32, 0.01), (torch.bfloat16, 0.0)])
@STORAGES
def test_an_embedding_that_renormalises_in_its_forward(dtype, b, masters):
    """Embedding(max_norm=1) writes its weight while noise is on: the rows keep the length of torch's own training."""
    longest = []
    for cls, extra in ((torch.optim.SGD, {}), (NVRMSGD, dict(variability=b, master_weights=masters))):
        torch.manual_seed(0)
        embedding = nn.Embedding(20, 8, max_norm=1.0).to(dtype)
        with torch.no_grad():
            embedding.weight.mul_(4.0)
        optimizer = cls(embedding.parameters(), lr=0.02, **extra)
        for _ in range(20):
            optimizer.zero_grad()
            (embedding(torch.arange(20)).float().square().sum() * -0.5).backward()
            optimizer.step()
        if cls is NVRMSGD:
            optimizer.denoise()
        longest.append(float(embedding.weight.detach().float().norm(dim=1).max()))
    # What noise adds to a length: a draw of eight normal numbers, below 6 b.
    assert abs(longest[1] - longest[0]) <= 6 * b + (2e-2 if dtype == torch.bfloat16 else 1e-5)


def test_masters_see_what_other_processes_write():
    """Shared memory: a write of another process raises no version here."""
    model = build().share_memory()
    optimizer = NVRMSGD(model.parameters(), **options(True))
    step(model, optimizer)
    for p in model.parameters():
        p.detach().numpy()[:] += 0.5  # as the other process would
    step(model, optimizer)
    optimizer.denoise()
    for p, before in zip(model.parameters(), build().parameters()):
        torch.testing.assert_close(p.detach(), before.detach() + 0.5, rtol=0, atol=1e-6)
