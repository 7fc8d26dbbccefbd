"""MomentumSAM against a loop written by hand, and what an optimizer owes schedulers, scalers and checkpoints."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from training import Model, loss_of, same, train, weights

from nvrm_fast import NVRMSGD, MomentumSAM, WeightNoise
from nvrm_fast.integrations.wrappers import clean_weights, find_optimizers
from nvrm_fast.optim import averaging

SGD = (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=1e-3), "momentum_buffer")
NESTEROV = (torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True), "momentum_buffer")
ADAM = (torch.optim.Adam, dict(lr=0.01), "exp_avg")
ADAMW = (torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1), "exp_avg")
BASES = pytest.mark.parametrize("base", [SGD, NESTEROV, ADAM, ADAMW], ids=["sgd", "nesterov", "adam", "adamw"])
SGD_AND_ADAM = pytest.mark.parametrize("base", [SGD, ADAM], ids=["sgd", "adam"])


def made(model, base, rho=0.2):
    cls, options, _ = base
    return MomentumSAM(cls(model.parameters(), **options), rho=rho)


def by_hand(model, base, rho, steps, start=0, inner=None, factor=None):
    """Algorithm 1 of the paper: w~ = w - rho * m / ||m||, the gradient there, and the rule on w."""
    cls, options, key = base
    inner = inner or cls(model.parameters(), **options)
    for i in range(start, start + steps):
        inner.zero_grad()
        loss_of(model, i).backward()
        with torch.no_grad():
            if factor is not None:
                for p in inner.state:
                    p.add_(inner.state[p][key] * factor)
        inner.step()
        with torch.no_grad():
            norm = torch.stack([state[key].norm() for state in inner.state.values()]).norm()
            factor = rho / (norm + 1e-12)
            for p in inner.state:
                p.sub_(inner.state[p][key] * factor)
    return inner, factor


@BASES
def test_it_is_the_papers_algorithm(base):
    """In float64, where the hand's two roundings and the fused product differ by 1e-16 a step."""
    model, twin = Model(torch.float64), Model(torch.float64)
    optimizer = made(model, base)
    train(model, optimizer, 12)
    inner, factor = by_hand(twin, base, 0.2, 12)
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    moved = [(w - p) for w, p in zip(clean_of(model, optimizer), model.parameters())]
    assert torch.stack([d.norm() for d in moved]).norm().item() == pytest.approx(0.2, rel=1e-9)
    optimizer.denoise()
    for p, q in zip(model.parameters(), twin.parameters()):
        if q in inner.state:
            torch.testing.assert_close(p.detach(), q + inner.state[q][base[2]] * factor, rtol=1e-10, atol=1e-12)


def clean_of(model, optimizer):
    with optimizer.denoised():
        return [p.detach().clone() for p in model.parameters()]


def test_a_published_step_bit_for_bit():
    """Two steps on one tensor, every operation written out in float32."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(1000))
    w, m, d = p.detach().clone(), torch.zeros(1000), torch.zeros(())
    optimizer = MomentumSAM(torch.optim.SGD([p], lr=0.1, momentum=0.9), rho=0.5)
    for i in range(4):
        p.grad = torch.randn(1000) * (i + 1)
        w = w.addcmul(m, d)
        m = p.grad.clone() if i == 0 else m * 0.9 + p.grad
        w = w.add(m, alpha=-0.1)
        d = 0.5 / (torch.linalg.vector_norm(m).reshape(1).norm() + 1e-12)
        w = w.addcmul(m, d, value=-1)
        optimizer.step()
        assert torch.equal(p, w)


@BASES
def test_without_rho_it_is_the_bare_optimizer(base):
    model, twin = Model(), Model()
    train(model, made(model, base, rho=0.0), 6)
    train(twin, base[0](twin.parameters(), **base[1]), 6)
    assert same(weights(model), weights(twin))


def test_groups_share_the_norm_and_have_a_rho_of_their_own():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    inner = torch.optim.SGD([{"params": [a]}, {"params": [b], "rho": 5.0}], lr=1e-9, momentum=0.9)
    optimizer = MomentumSAM(inner, rho=1.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert (a.item(), b.item()) == (pytest.approx(-0.6), pytest.approx(-4.0))
    optimizer.param_groups[1]["rho"] = 0.0  # the old perturbation comes off as it went on
    optimizer.step()
    assert b.item() == pytest.approx(0.0, abs=1e-6) and a.item() == pytest.approx(-0.6)


@SGD_AND_ADAM
def test_denoised_is_clean_inside_and_the_same_bits_afterwards(base):
    model = Model()
    optimizer = made(model, base)
    train(model, optimizer, 3)
    before = weights(model)
    with pytest.raises(ZeroDivisionError), optimizer.denoised():
        assert not optimizer.is_perturbed() and not same(before, weights(model))
        inside = weights(model)
        with optimizer.denoised():
            assert same(inside, weights(model))
        raise ZeroDivisionError
    assert optimizer.is_perturbed() and same(before, weights(model))
    optimizer.denoise()
    assert same(inside, weights(model)) and not optimizer.is_perturbed()


def test_what_is_written_in_the_block_stays_under_the_perturbation():
    model = Model()
    optimizer = made(model, SGD)
    train(model, optimizer, 3)
    noisy = model.linear.weight.detach().clone()
    with optimizer.denoised(), torch.no_grad():
        clean = model.linear.weight.detach().clone()
        model.linear.weight[0] = 1.0
    assert torch.equal(model.linear.weight[1:], noisy[1:])
    torch.testing.assert_close(model.linear.weight[0] - 1.0, noisy[0] - clean[0], atol=1e-6, rtol=0)


@SGD_AND_ADAM
@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_resumes(base, evaluating, dtype):
    model, twin = Model(dtype), Model(dtype)
    optimizer, other = made(model, base), made(twin, base, rho=0.7)
    train(model, optimizer, 3)
    if evaluating:
        optimizer.eval()
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    saved, state = torch.load(file)
    twin.load_state_dict(saved)
    other.load_state_dict(state)
    if evaluating:
        with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\) first"):
            other.step()
        optimizer.train()
        other.train()
    train(model, optimizer, 3, start=3)
    train(twin, other, 3, start=3)
    assert same(weights(model), weights(twin))
    assert other.param_groups[0]["rho"] == 0.2


def test_the_bare_optimizers_checkpoint_loads():
    model, twin = Model(), Model()
    bare = torch.optim.SGD(model.parameters(), **SGD[1])
    train(model, bare, 3)
    twin.load_state_dict(model.state_dict())
    optimizer = made(twin, SGD, rho=0.4)
    optimizer.load_state_dict(copy.deepcopy(bare.state_dict()))
    assert optimizer.param_groups[0]["rho"] == 0.4 and not optimizer.is_perturbed()
    train(twin, optimizer, 1, start=3)
    train(model, bare, 1, start=3)
    optimizer.denoise()
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_bfloat16_weights_are_clean_exactly():
    """The bare optimizer, given the same gradients, has the same bits."""
    model, twin = Model(torch.bfloat16), Model(torch.bfloat16)
    optimizer, bare = made(model, SGD, rho=2.0), torch.optim.SGD(twin.parameters(), **SGD[1])
    for i in range(5):
        optimizer.zero_grad()
        loss_of(model, i).backward()
        for p, q in zip(model.parameters(), twin.parameters()):
            q.grad = None if p.grad is None else p.grad.clone()
        optimizer.step()
        bare.step()
    with optimizer.denoised():
        assert same(weights(model), weights(twin))
    before = weights(model)
    assert not same(before, weights(twin))
    with optimizer.denoised():
        pass
    assert same(before, weights(model))


def test_a_deep_copy_goes_on_by_itself():
    model = Model()
    optimizer = made(model, SGD)
    train(model, optimizer, 2)
    twin, other = copy.deepcopy((model, optimizer))
    train(model, optimizer, 2, start=2)
    train(twin, other, 2, start=2)
    assert same(weights(model), weights(twin)) and not same(weights(model), weights(Model()))


def test_schedulers_scalers_and_closures():
    model, twin = Model(), Model()
    optimizer, other = made(model, SGD), made(twin, SGD)
    schedules = [torch.optim.lr_scheduler.StepLR(each, 1, 0.5) for each in (optimizer, other)]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for i in range(3):
        scaler.scale(loss_of(model, i)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

        def closure(i=i):
            other.zero_grad()
            loss = loss_of(twin, i)
            loss.backward()
            return loss

        loss = loss_of(twin, i)
        assert torch.equal(other.step(closure), loss)
        for schedule in schedules:
            schedule.step()
    assert optimizer.optimizer.param_groups[0]["lr"] == 0.0125
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_group_added_later():
    model = Model()
    optimizer = MomentumSAM(torch.optim.SGD(model.conv.parameters(), lr=0.1, momentum=0.9), rho=0.2)
    train(model, optimizer, 1)
    optimizer.add_param_group({"params": list(model.linear.parameters()), "rho": 0.1})
    optimizer.optimizer.add_param_group({"params": list(model.norm.parameters())})
    train(model, optimizer, 2)
    assert [group["rho"] for group in optimizer.param_groups] == [0.2, 0.1, 0.2]
    before = weights(model)
    with optimizer.denoised():
        changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.split(".")[0] in ("conv", "linear", "norm")}


def test_noise_around_it():
    model = Model()
    optimizer = WeightNoise(made(model, SGD), variability=0.05)
    train(model, optimizer, 3)
    before = weights(model)
    with optimizer.denoised():  # the mode goes on to the wrapped optimizer
        assert not optimizer.optimizer.is_perturbed()
        clean = weights(model)
    assert same(before, weights(model)) and optimizer.optimizer.is_perturbed()
    optimizer.denoise()
    optimizer.optimizer.denoise()
    assert all((value - clean[name]).abs().max() < 1e-6 for name, value in weights(model).items())


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda p: MomentumSAM(p), TypeError, "optimizer must be a torch.optim.Optimizer"),
        (lambda p: MomentumSAM(NVRMSGD(p, lr=0.1)), TypeError, "NVRMSGD perturbs the weights already"),
        (lambda p: made_sgd(p, momentum=0.0), ValueError, "momentum is 0"),
        (lambda p: made_sgd(p, rho=-1.0), ValueError, "Invalid rho value: -1.0"),
        (lambda p: made_sgd(p, rho="a"), TypeError, "rho must be a number"),
        (lambda p: made_sgd([{"params": p, "rho": float("nan")}]), ValueError, "Invalid rho"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call([nn.Parameter(torch.ones(3))])


def made_sgd(params, momentum=0.9, rho=0.1):
    return MomentumSAM(torch.optim.SGD(params, lr=0.1, momentum=momentum), rho=rho)


def test_an_optimizer_without_momentum_is_refused_with_clean_weights():
    model, twin = Model(), Model()
    optimizer = MomentumSAM(torch.optim.RMSprop(model.parameters(), momentum=0.9))
    optimizer.param_groups[0]["momentum"] = 0.9
    train(model, optimizer, 1)  # RMSprop keeps a momentum_buffer
    adagrad, bare = MomentumSAM(torch.optim.Adagrad(model.parameters())), torch.optim.Adagrad(twin.parameters())
    optimizer.denoise()
    twin.load_state_dict(model.state_dict())
    train(twin, bare, 1)
    with pytest.raises(RuntimeError, match="Adagrad keeps no momentum"):
        train(model, adagrad, 1)
    assert same(weights(model), weights(twin)) and not adagrad.is_perturbed()


def test_a_momentum_of_another_shape_and_a_momentum_that_is_gone():
    p = nn.Parameter(torch.ones(4))
    optimizer = made_sgd([p])
    p.grad = torch.ones(4)
    optimizer.step()
    state = dict(optimizer.state[p])
    optimizer.state[p].clear()
    with pytest.raises(RuntimeError, match="call denoise"):
        optimizer.step()
    optimizer.state[p].update(state)
    optimizer.denoise()
    optimizer.state[p]["momentum_buffer"] = torch.ones(2, dtype=torch.uint8)
    with pytest.raises(TypeError, match="keeps a momentum that is no floating-point tensor"):
        optimizer._perturb()
    assert not optimizer.is_perturbed()


def test_integrations_find_it_and_averages_of_perturbed_weights_are_warned_of(monkeypatch):
    model = Model()
    optimizer = made(model, SGD)
    assert find_optimizers([optimizer, torch.optim.SGD(model.parameters())]) == [optimizer]
    averaging.unwatch()
    monkeypatch.setattr(averaging, "_watched_before", [])
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model, optimizer, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with clean_weights(optimizer):
            assert not optimizer.is_perturbed()
            average.update_parameters(model)
            assert same(weights(model), weights(average.module))
        torch.optim.swa_utils.AveragedModel(Model()).update_parameters(Model())
    with pytest.warns(UserWarning, match=r"with optimizer\.denoised\(\): average\.update_parameters\(model\)"):
        average.update_parameters(model)
    averaging.unwatch()
