"""torch's generic optimizer checks, on our classes: results at b = 0, and with noise where they mean something."""

import inspect
import warnings
from copy import deepcopy

import pytest
import torch
from torch.optim import lr_scheduler
from torch.testing._internal.common_optimizers import OptimizerErrorEnum
from torch_suite import (
    INFOS,
    PAIRS,
    assert_near,
    every_input,
    every_pair,
    every_perturbed,
    give_gradients,
    inputs,
    make_closure,
    make_params,
    noisy_or_not,
)

from nvrm_fast import PerturbedSGD


@every_input
@pytest.mark.parametrize("contiguous", [True, False], ids=["dense", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_input_gives_torchs_result(ours, theirs, kwargs, contiguous, dtype):
    params, twins = make_params(contiguous, dtype), make_params(contiguous, dtype)
    optimizer, reference = ours(params, variability=0.0, **deepcopy(kwargs)), theirs(twins, **deepcopy(kwargs))
    for i in range(10):
        give_gradients(params, i)
        give_gradients(twins, i)
        optimizer.step()
        reference.step()
    assert_near(params, twins)
    assert optimizer.defaults.keys() >= set(kwargs)
    assert type(optimizer).__name__ in repr(optimizer) and "variability: 0.0" in repr(optimizer)


@every_input
@noisy_or_not
@pytest.mark.parametrize("contiguous", [True, False], ids=["dense", "strided"])
def test_goes_in_the_right_direction(ours, theirs, kwargs, b, contiguous):
    """With closures and with every scheduler of torch's table; on clean weights, noise or not."""
    for schedulers in ([], *INFOS[theirs].scheduler_inputs):
        params = make_params(contiguous)
        options = deepcopy(kwargs)
        optimizer = ours(params, variability=b * 0.1, **options)
        made = [make(optimizer) for make in schedulers]
        closure = make_closure(optimizer, params)
        first = closure().item()
        for _ in range(20):
            loss = optimizer.step(closure)
            for scheduler in made:
                scheduler.step(*([loss] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        if ours is not PerturbedSGD:
            optimizer.denoise()
        last = closure().item()
        assert (last > first) if kwargs.get("maximize") else (last < first)


# Errors of torch's which are none here, and why.
NO_ERRORS_HERE = {
    "lr as Tensor doesn't work with foreach & not capturable": "foreach has no effect: the step is always fused",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": "foreach has no effect",
    "betas must be either both floats or both Tensors": "both are read as numbers",
}


@pytest.mark.parametrize(
    "ours, case",
    [
        pytest.param(ours, case, id=f"{ours.__name__}, {case.optimizer_error_input.desc}")
        for ours, theirs in PAIRS
        for case in INFOS[theirs].optim_error_inputs_func("cpu", torch.float32)
    ],
)
def test_errors(ours, case):
    assert case.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
    given = case.optimizer_error_input
    params = make_params() if given.params is None else given.params
    if given.desc in NO_ERRORS_HERE:
        optimizer = ours(params, variability=0.0, **given.kwargs)
        twins = make_params()
        plain = {key: value for key, value in given.kwargs.items() if key != "foreach"}
        plain = {key: tuple(map(float, x)) if key == "betas" else float(x) for key, x in plain.items()}
        reference = dict(PAIRS)[ours](twins, **plain)
        for one, chosen in ((params, optimizer), (twins, reference)):
            give_gradients(one, 0)
            chosen.step()
        assert_near(params, twins)
    elif issubclass(case.error_type, Warning):
        # torch warns that it will be an error; here it is one: the same memory would carry two draws.
        with pytest.warns(case.error_type, match=case.error_regex), pytest.raises(ValueError, match="share memory"):
            ours(params, **given.kwargs)
    else:
        with pytest.raises(case.error_type, match=case.error_regex):
            ours(params, **given.kwargs)


@every_input
def test_nothing_happens_without_gradients(ours, theirs, kwargs):
    params = make_params()
    before = deepcopy(params)
    optimizer = ours(params, variability=0.05, **kwargs)
    for _ in range(3):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before))
    assert not optimizer.state


@every_perturbed
def test_zero_gradients_leave_the_clean_weights(ours, theirs):
    for _, kwargs in inputs(theirs):
        params = make_params()
        before = deepcopy(params)
        optimizer = ours(params, **{**kwargs, "weight_decay": 0, "variability": 0.05, "master_weights": True})
        for _ in range(3):
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
        assert not any(torch.equal(p, q) for p, q in zip(params, before))
        optimizer.denoise()
        assert all(torch.equal(p, q) for p, q in zip(params, before))


@every_pair
@pytest.mark.parametrize("option, value", [("lr", 0.3), ("weight_decay", 0.7), ("maximize", True)])
def test_options_of_a_group(ours, theirs, option, value):
    ends = []
    for cls, extra in ((ours, dict(variability=0.0)), (theirs, {})):
        weight, bias = make_params()
        optimizer = cls([dict(params=[weight]), {"params": bias, option: value}], lr=0.01, **extra)
        assert optimizer.param_groups[1][option] == value != optimizer.param_groups[0][option]
        third = make_params()[1]
        for i in range(6):
            if i == 3:
                optimizer.add_param_group({"params": third, option: value})
            give_gradients([weight, bias, third], i)
            optimizer.step()
        ends.append([weight, bias, third])
    assert_near(*ends)


@every_pair
@pytest.mark.parametrize("shape", [(), (1,)])
@noisy_or_not
def test_tensor_lr(ours, theirs, shape, b):
    """The tensor stays the group's own and is written into by schedulers; the steps are those of the number."""
    ends = []
    for make in (float, lambda lr: torch.tensor(lr, dtype=torch.float64).reshape(shape)):
        params, lr = make_params(dtype=torch.float64), make(0.1)
        optimizer = ours(params, lr=lr, variability=b)
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
        for i in range(4):
            give_gradients(params, i)
            optimizer.step()
            scheduler.step()
        assert float(optimizer.param_groups[0]["lr"]) == 0.1 * 0.5**4
        assert optimizer.param_groups[0]["lr"] is lr or not isinstance(lr, torch.Tensor)
        ends.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*ends))


SCHEDULERS = {
    lr_scheduler.LambdaLR: dict(lr_lambda=lambda epoch: 0.9**epoch),
    lr_scheduler.MultiplicativeLR: dict(lr_lambda=lambda epoch: 0.9),
    lr_scheduler.StepLR: dict(step_size=2),
    lr_scheduler.MultiStepLR: dict(milestones=[2, 5]),
    lr_scheduler.ConstantLR: dict(total_iters=3),
    lr_scheduler.LinearLR: dict(total_iters=5),
    lr_scheduler.ExponentialLR: dict(gamma=0.8),
    lr_scheduler.PolynomialLR: dict(total_iters=6, power=2.0),
    lr_scheduler.CosineAnnealingLR: dict(T_max=4),
    lr_scheduler.CosineAnnealingWarmRestarts: dict(T_0=3),
    lr_scheduler.CyclicLR: dict(base_lr=0.01, max_lr=0.1, step_size_up=2),  # also cycles momentum or betas
    lr_scheduler.OneCycleLR: dict(max_lr=0.1, total_steps=20),  # the same
    lr_scheduler.ReduceLROnPlateau: dict(patience=1),
    lr_scheduler.SequentialLR: "made of others",
    lr_scheduler.ChainedScheduler: "made of others",
    torch.optim.swa_utils.SWALR: dict(swa_lr=0.01, anneal_epochs=3),
}


def make_scheduler(cls, optimizer):
    first, second = (
        [lr_scheduler.ConstantLR(optimizer, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
        if SCHEDULERS[cls] == "made of others"
        else (None, None)
    )
    if cls is lr_scheduler.SequentialLR:
        return cls(optimizer, [first, second], milestones=[3])
    if cls is lr_scheduler.ChainedScheduler:
        return cls([first, second], optimizer=optimizer)
    return cls(optimizer, **SCHEDULERS[cls])


def test_no_scheduler_of_torch_is_missing():
    known = {
        cls
        for _, cls in inspect.getmembers(lr_scheduler, inspect.isclass)
        if issubclass(cls, lr_scheduler.LRScheduler) and not cls.__name__.startswith("_")
    }
    assert known - {lr_scheduler.LRScheduler} <= set(SCHEDULERS)


@every_pair
@pytest.mark.parametrize("scheduler_cls", SCHEDULERS, ids=lambda cls: cls.__name__)
@noisy_or_not
def test_every_scheduler(ours, theirs, scheduler_cls, b):
    """The same learning rates, momenta and, without noise, weights as torch's class; saved and loaded halfway."""
    options = dict(momentum=0.9) if theirs is torch.optim.SGD else {}
    params, twins = make_params(dtype=torch.float64), make_params(dtype=torch.float64)
    optimizer = ours(params, lr=0.05, variability=b, **options)
    reference = theirs(twins, lr=0.05, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The epoch parameter")  # SequentialLR's own doing
        mine, other = make_scheduler(scheduler_cls, optimizer), make_scheduler(scheduler_cls, reference)
        for i in range(8):
            give_gradients(params, i)
            give_gradients(twins, i)
            optimizer.step()
            reference.step()
            for scheduler in (mine, other):
                scheduler.step(*([1.0] if scheduler_cls is lr_scheduler.ReduceLROnPlateau else []))
            for key in ("lr", "momentum", "betas"):
                assert optimizer.param_groups[0].get(key) == reference.param_groups[0].get(key)
            if i == 3:
                states = deepcopy((optimizer.state_dict(), mine.state_dict()))
                optimizer = ours(params, lr=0.7, variability=0.9, **options)
                mine = make_scheduler(scheduler_cls, optimizer)
                optimizer.load_state_dict(states[0])
                mine.load_state_dict(states[1])
    if ours is PerturbedSGD and b:
        return
    if b:
        optimizer.denoise()
    for p, q in zip(params, twins):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@every_pair
def test_closure(ours, theirs):
    params = make_params()
    optimizer = ours(params, lr=0.01)
    closure = make_closure(optimizer, params)
    first = closure().item()
    with torch.no_grad():  # the closure needs gradients all the same
        assert optimizer.step(closure).item() == first
    assert optimizer.step() is None
