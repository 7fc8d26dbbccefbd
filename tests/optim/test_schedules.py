"""Schedules of variability, noise type and seed: whatever noise is on comes off exactly, also after a resume."""

import io
import math
import warnings

import pytest
import torch
from torch.optim import lr_scheduler
from training import Model, same, train, weights

from nvrm_fast import NVRMSGD, SGLD, NVRMAdam, PerturbedSGD
from nvrm_fast.optim import VariabilityScheduler

every_class = pytest.mark.parametrize(
    "cls, options", [(NVRMSGD, dict(lr=0.1, momentum=0.9)), (NVRMAdam, dict(lr=0.01))], ids=["SGD", "Adam"]
)
STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
LARGEST_DRAW = 11.2  # of Laplace's 16 bits: ln(2^16); the other distributions stay below


def same_gradients(model, twin, i):
    """Gradients that do not depend on the weights: twins stay twins, whatever noise they carry."""
    generator = torch.Generator().manual_seed(i)
    for p, q in zip(model.parameters(), twin.parameters()):
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        q.grad = p.grad.clone()


def wild_schedule(i):
    """Everything that may change does, at different periods, with b = 0 among it."""
    return dict(
        variability=(0.05, 0.2, 0.0, 1e-4, 3.0)[i % 5],
        noise=("gaussian", "laplace", "uniform")[i % 3],
        seed=(0, 2**64 - 1, 7, 2**63)[(i // 2) % 4],
        draws="independent" if i % 9 in (0, 4) else "cycle",
    )


@every_class
@pytest.mark.parametrize(
    "dtype, masters",
    [(torch.float32, False), (torch.float64, False), (torch.float32, True), (torch.bfloat16, True)],
    ids=["in place", "in place, double", "masters", "masters, bfloat16"],
)
def test_the_noise_comes_off_whatever_the_schedule(cls, options, masters, dtype):
    """Against a noise-free twin: with masters bit for bit. In place each step rounds three times where the twin rounds
    once (noise off, rule, noise on), each time by at most eps/2 of the largest number there is."""
    model, twin = Model(dtype), Model(dtype)
    optimizer = cls(model.parameters(), master_weights=masters, **options)
    plain = cls(twin.parameters(), variability=0.0, master_weights=masters, **options)
    steps, largest = 60, 0.0
    for i in range(steps):
        optimizer.param_groups[0].update(wild_schedule(i))
        same_gradients(model, twin, i)
        optimizer.step()
        plain.step()
        largest = max(largest, *(p.abs().max().item() for p in twin.parameters()))
        if i % 7 == 3:
            with optimizer.denoised():
                pass
        if i % 11 == 5:
            optimizer.denoise()
    optimizer.denoise()
    if masters:
        assert same(weights(model), weights(twin))
        return
    bound = steps * 2 * torch.finfo(dtype).eps * (largest + LARGEST_DRAW * 3.0)
    for p, q in zip(model.parameters(), twin.parameters()):
        assert (p - q).abs().max() <= bound


@every_class
@STORAGES
@pytest.mark.parametrize("evaluating", [False, True], ids=["training", "evaluating"])
def test_resume_in_the_middle_of_a_schedule(cls, options, masters, evaluating):
    """The checkpoint is taken right after a change which no step has seen yet."""

    def make():
        model = Model()
        optimizer = cls(model.parameters(), variability=0.1, master_weights=masters, **options)
        schedulers = [
            VariabilityScheduler(optimizer, lambda epoch: math.cos(epoch / 8) ** 2),
            lr_scheduler.StepLR(optimizer, 2, 0.5),
        ]
        return model, optimizer, schedulers

    def go(run, start, steps):
        model, optimizer, schedulers = run
        for i in range(start, start + steps):
            train(model, optimizer, 1, start=i)
            for scheduler in schedulers:
                scheduler.step()
            changed = wild_schedule(i)
            optimizer.param_groups[0].update({key: changed[key] for key in ("noise", "seed", "draws")})

    straight, resumed = make(), make()
    go(straight, 0, 5)
    if evaluating:
        straight[1].eval()
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (*straight[:2], *straight[2])], file)
    file.seek(0)
    for part, state in zip((*resumed[:2], *resumed[2]), torch.load(file, weights_only=True)):
        part.load_state_dict(state)
    for run in (straight, resumed):
        run[1].train()
        go(run, 5, 5)
        run[1].denoise()
    assert same(weights(straight[0]), weights(resumed[0]))
    assert straight[1].param_groups == [
        {**group, "params": straight[1].param_groups[0]["params"]} for group in resumed[1].param_groups
    ]


def test_values_follow_lambda_lr():
    """The same numbers as LambdaLR gives for lr, group by group; lr itself stays."""
    model = Model()
    groups = [
        dict(params=model.conv.parameters(), variability=0.2, lr=0.2),
        dict(params=model.linear.parameters(), lr=torch.tensor(0.1)),
    ]
    optimizer = NVRMSGD(groups, lr=0.1, variability=0.1)
    other = torch.optim.SGD([dict(params=[torch.zeros(1)], lr=0.2), dict(params=[torch.zeros(1)], lr=0.1)])
    functions = [lambda epoch: 0.9**epoch, lambda epoch: min(1.0, epoch / 3)]
    scheduler = VariabilityScheduler(optimizer, functions)
    theirs = lr_scheduler.LambdaLR(other, functions)
    for i in range(5):
        got = [group["variability"] for group in optimizer.param_groups]
        assert got == theirs.get_last_lr() == scheduler.get_last_variability()
        assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.2, 0.1])
        train(model, optimizer, 1, start=i)
        other.step()
        scheduler.step()
        theirs.step()
    assert scheduler.last_epoch == theirs.last_epoch == 5


def test_beside_other_schedulers_and_without_warnings():
    model = Model()
    optimizer = NVRMAdam(model.parameters(), lr=0.1, variability=0.1)
    both = lr_scheduler.ChainedScheduler(
        [VariabilityScheduler(optimizer, lambda epoch: 0.5**epoch), lr_scheduler.ExponentialLR(optimizer, 0.1)],
        optimizer=optimizer,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(2):
            train(model, optimizer, 1, start=i)
            both.step()
    assert optimizer.param_groups[0]["variability"] == pytest.approx(0.025)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


class Decay:
    """A callable with state, which a scheduler's checkpoint has to carry."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, epoch):
        return self.rate**epoch


def test_state_of_callable_objects_is_saved():
    optimizer = PerturbedSGD([torch.nn.Parameter(torch.zeros(2))], variability=0.1)
    state = VariabilityScheduler(optimizer, Decay(0.5)).state_dict()
    again = VariabilityScheduler(optimizer, Decay(0.1))
    again.load_state_dict(state)
    assert again.variability_lambdas[0].rate == 0.5
    for function in (lambda epoch: 1.0, math.exp):
        scheduler = VariabilityScheduler(optimizer, function)
        assert scheduler.state_dict()["variability_lambdas"] == [None]
        scheduler.load_state_dict(scheduler.state_dict())


def test_start_from_an_epoch():
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = NVRMSGD([p], variability=0.1)
    with pytest.raises(KeyError, match="initial_variability"):
        VariabilityScheduler(optimizer, lambda epoch: 0.5**epoch, last_epoch=3)
    VariabilityScheduler(optimizer, lambda epoch: 0.5**epoch)
    again = NVRMSGD([p], variability=7.0)
    again.load_state_dict(optimizer.state_dict())
    VariabilityScheduler(again, lambda epoch: 0.5**epoch, last_epoch=3)
    assert again.param_groups[0]["variability"] == pytest.approx(0.1 * 0.5**4)


def test_bad_use():
    p = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(TypeError, match="int is not an Optimizer"):
        VariabilityScheduler(3, lambda epoch: 1.0)
    for plain in (SGLD([p]), torch.optim.SGD([p])):
        with pytest.raises(TypeError, match="has no variability to schedule"):
            VariabilityScheduler(plain, lambda epoch: 1.0)
    optimizer = NVRMSGD([p], variability=0.1)
    with pytest.raises(ValueError, match="2 functions and the optimizer 1 parameter groups"):
        VariabilityScheduler(optimizer, [lambda epoch: 1.0] * 2)
    scheduler = VariabilityScheduler(optimizer, lambda epoch: 1.0 - 2 * epoch)
    optimizer.step()
    scheduler.step()
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match="Invalid variability value: -0.1"):
        optimizer.step()
    assert torch.equal(p, torch.zeros(2))
    optimizer.add_param_group(dict(params=[torch.nn.Parameter(torch.zeros(1))]))
    with pytest.raises(ValueError, match="1 initial variabilities and the optimizer 2 parameter groups"):
        scheduler.step()


@every_class
@STORAGES
def test_tensors_that_kernels_read(cls, options, masters):
    """capturable: lr, betas and variability as tensors leave the bits of the same numbers, also as they change."""
    left = []
    for tensors in (False, True):
        model = Model()
        make = (lambda x: torch.tensor(x, dtype=torch.float64)) if tensors else float
        given = {**options, "lr": make(0.1), "variability": make(0.25)}
        if cls is NVRMAdam:
            given["betas"] = (make(0.8), make(0.99))
        optimizer = cls(model.parameters(), master_weights=masters, capturable=tensors, **given)
        for i in range(4):
            same_gradients(model, model, i)
            optimizer.step()
            group = optimizer.param_groups[0]
            for key, value in (("lr", 0.05 / (i + 1)), ("variability", 0.5 ** (i + 3))):
                if tensors:
                    group[key].fill_(value)
                else:
                    group[key] = value
        noisy = weights(model)
        optimizer.denoise()
        left.append({**{f"noisy {k}": v for k, v in noisy.items()}, **weights(model)})
    assert same(*left)
