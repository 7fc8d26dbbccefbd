"""`draws="cycle"`: what the noise of each step is, and that it comes off, whatever happens within a cycle."""

import copy

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion, PerturbedSGD, WeightNoise
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.contract.record import STEP, TURN
from nvrm_fast.reference import noise

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
#: With a learning rate of 0 weights of 0 stay 0: what a parameter holds is its noise, bit for bit.
STILL = dict(lr=0.0, variability=0.25, seed=3, draws="cycle")


def wrapped(params, *, lr, **options):
    return WeightNoise(torch.optim.SGD(params, lr=lr), **options)


EVERY_CLASS = pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion, wrapped])


def zeros(numel=300):
    p = nn.Parameter(torch.zeros(numel))
    p.grad = torch.ones(numel)
    return p


def steps(optimizer, p, count):
    """The noise after each step."""
    found = []
    for _ in range(count):
        optimizer.step()
        found.append(p.detach().clone())
    return found


def words_of(optimizer, p):
    return optimizer.state[p]["perturbation"].tolist()


@EVERY_CLASS
@STORAGES
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_noise_of_each_step(cls, masters, name):
    """Step t puts on the draw t // 4, turned by t % 4, in place and with masters the same."""
    p = zeros()
    optimizer = cls([p], noise=name, master_weights=masters, **STILL)
    for t, found in enumerate(steps(optimizer, p, 9), start=1):
        stream = words_of(optimizer, p)[3]
        where = dict(seed=3, stream=stream, distribution=DISTRIBUTIONS[name], scale=0.25, offset=0)
        assert torch.equal(found, noise(300, step=t // 4, turn=t % 4, **where)), t
    assert (words_of(optimizer, p)[STEP], words_of(optimizer, p)[TURN]) == (2, 1)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_four_steps_sum_to_zero(name):
    p = zeros()
    found = steps(NVRMSGD([p], noise=name, **STILL), p, 11)[3:]  # from the fourth step on: whole cycles
    for cycle in (found[:4], found[4:]):
        assert torch.equal(cycle[2], -cycle[0]) and torch.equal(cycle[3], -cycle[1])
        assert not torch.equal(cycle[0].abs(), cycle[1].abs()) or name == "rademacher"
    assert not torch.equal(found[0], found[4])


def test_each_parameter_counts_its_own_steps():
    late, early = zeros(), zeros()
    optimizer = NVRMSGD([late, early], **STILL)
    late.grad = None
    steps(optimizer, early, 5)
    late.grad = torch.ones(300)
    steps(optimizer, early, 1)
    assert [words_of(optimizer, p)[STEP : TURN + 1] for p in (late, early)] == [[0, 1], [1, 2]]


@EVERY_CLASS
@STORAGES
def test_everything_may_change_in_mid_cycle(cls, masters):
    """Scale, law, seed and the option itself, a look, a pause and steps that leave the weights clean: what comes off is
    what was put on, exactly, since the clean weights are 0."""
    p = zeros()
    optimizer = cls([p], master_weights=masters, **STILL)
    (group,) = optimizer.param_groups
    changes = [
        dict(variability=0.5), dict(noise="uniform"), dict(draws="independent"), dict(draws="cycle"), dict(seed=2**63),
        dict(variability=0.0), dict(variability=0.1), dict(denoise_every=3), dict(noise="laplace"), dict(seed=1),
    ]  # fmt: skip
    for change in changes:
        for count in (1, 2):
            group.update(change)
            noisy = steps(optimizer, p, count)[-1]
            with optimizer.denoised():
                assert not p.detach().any(), change
            assert torch.equal(p.detach(), noisy)
            if group["variability"] and not group["denoise_every"]:
                assert noisy.any()
    optimizer.denoise()
    assert not p.detach().any()
    assert steps(optimizer, p, 2)[-1].any()
    optimizer.denoise()
    assert not p.detach().any()


@STORAGES
@pytest.mark.parametrize("done", [3, 4, 5, 6])
def test_a_copy_and_a_checkpoint_go_on_with_the_turn(masters, done):
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(300))
    options = dict(lr=0.1, variability=0.05, momentum=0.9, draws="cycle", master_weights=masters)
    optimizer = NVRMSGD([p], seed=3, **options)
    p.grad = torch.ones(300)
    steps(optimizer, p, done)
    q, copied = copy.deepcopy((p, optimizer))
    r = nn.Parameter(p.detach().clone())
    # The option and the seed come with the checkpoint.
    loaded = NVRMSGD([r], **{**options, "draws": "independent"})
    loaded.load_state_dict(optimizer.state_dict())
    q.grad = r.grad = p.grad
    expected = steps(optimizer, p, 3)
    for other, own in ((q, copied), (r, loaded)):
        assert all(map(torch.equal, steps(own, other, 3), expected))


def test_a_skipped_step_does_not_turn():
    p = zeros()
    optimizer = NVRMSGD([p], fused=True, **STILL)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    found = []
    for gradient in (1.0, float("inf"), 1.0, float("nan"), 1.0):
        scaler.scale(p.sum()).backward()
        p.grad.fill_(gradient)
        scaler.step(optimizer)
        scaler.update()
        found.append(p.detach().clone())
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
    assert words_of(optimizer, p)[STEP : TURN + 1] == [0, 3]
    assert torch.equal(found[4], -found[0])
    optimizer.denoise()
    assert not p.detach().any()


@pytest.mark.parametrize("per", ["tensor", "row"])
@STORAGES
def test_relative_noise_comes_off_with_the_scale_it_was_put_on_with(per, masters):
    """The weights grow, and so does b, from turn to turn of one draw."""
    torch.manual_seed(0)
    p, q = (nn.Parameter(torch.full((7, 40), 0.5)) for _ in range(2))
    options = dict(lr=0.1, variability=0.1, relative="rms", per=per, master_weights=masters)
    noisy, plain = NVRMSGD([p], draws="cycle", **options), NVRMSGD([q], **{**options, "variability": 0.0})
    scales = []
    for step in range(9):
        p.grad = q.grad = -torch.rand(7, 40) * (step + 1)
        noisy.step()
        plain.step()
        with noisy.denoised():
            clean = p.detach().clone()
        torch.testing.assert_close(clean, q.detach(), rtol=0, atol=0 if masters else 3e-6)
        scales.append(float((p.detach() - clean).std()))
    assert scales[-1] > 3 * scales[0]


def test_bad_draws_are_refused():
    p = zeros()
    for bad in ("cycles", None, 4, ["cycle"]):
        with pytest.raises(ValueError, match=r"draws must be one of 'independent', 'cycle'; got "):
            NVRMSGD([p], draws=bad)
        with pytest.raises(ValueError, match="draws must be one of"):
            WeightNoise(torch.optim.SGD([p], lr=0.1), draws=bad)
    optimizer = NVRMSGD([p], **STILL)
    optimizer.param_groups[0]["draws"] = "turns"
    with pytest.raises(ValueError, match="draws must be one of 'independent', 'cycle'; got 'turns'"):
        optimizer.step()
    assert not p.detach().any()
    # Noise that stays is not drawn in cycles: it has to be fresh in every step.
    with pytest.raises(TypeError, match="draws"):
        PerturbedSGD([p], draws="cycle")
