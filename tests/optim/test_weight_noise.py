"""WeightNoise: any optimizer steps on clean weights, and is one optimizer with its noise to everything around it."""

import copy
import math

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD, WeightNoise


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021) as it is commonly wrapped around an optimizer."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, dict(rho=rho, **options))
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        ascent = [p.grad * (self.param_groups[0]["rho"] / norm) for p in params]
        for p, e in zip(params, ascent):
            self.state[p]["before"] = p.clone()
            p.add_(e)
        with torch.enable_grad():
            loss = closure()
        for p in params:
            p.copy_(self.state[p]["before"])
        self.base.step()
        return loss


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3, bias=False)).to(dtype)


def external(module, name):
    return lambda *args, **kwargs: getattr(pytest.importorskip(module), name)(*args, **kwargs)


# Each takes named parameters; matrices only where the rule knows no others.
WRAPPED = {
    "sgd": lambda named: torch.optim.SGD(named, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adam": lambda named: torch.optim.Adam(named, lr=1e-2, amsgrad=True),
    "adamw foreach": lambda named: torch.optim.AdamW(named, lr=1e-2, foreach=True),
    "adamw fused": lambda named: torch.optim.AdamW(named, lr=1e-2, fused=True),
    "rprop": lambda named: torch.optim.Rprop(named, lr=1e-2),
    "adafactor": lambda named: torch.optim.Adafactor(named, lr=1e-2),
    "muon": lambda named: torch.optim.Muon([(n, p) for n, p in named if p.dim() == 2], lr=1e-2),
    "lion": lambda named: external("pytorch_optimizer", "Lion")([p for _, p in named], lr=1e-3),
    "soap": lambda named: external("pytorch_optimizer", "SOAP")([p for _, p in named], lr=1e-3),
    "schedule free": lambda named: external("schedulefree", "AdamWScheduleFree")([p for _, p in named], lr=1e-2),
    "8 bit": lambda named: eight_bit([p for _, p in named], lr=1e-2),
}


def eight_bit(params, **options):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    return bitsandbytes.optim.AdamW8bit(params, min_8bit_size=1, **options)


def gradients(model, step):
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def steps(model, optimizer, first, last):
    for step in range(first, last):
        gradients(model, step)
        optimizer.step()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", WRAPPED)
def test_with_master_weights_the_clean_weights_are_the_bare_optimizers(name, dtype):
    if dtype == torch.bfloat16 and name in ("soap", "schedule free"):
        pytest.skip("this optimizer mixes dtypes itself")
    results = []
    for noisy in (False, True):
        model = model_of(dtype)
        optimizer = WRAPPED[name](list(model.named_parameters()))
        if noisy:
            optimizer = WeightNoise(optimizer, variability=0.3, master_weights=True)
        if hasattr(optimizer, "train"):
            optimizer.train()
        steps(model, optimizer, 0, 5)
        if noisy:
            before = weights(model)
            assert optimizer.is_perturbed()
            optimizer.eval()
            assert not same(before, weights(model))
        elif hasattr(optimizer, "eval"):
            optimizer.eval()
        results.append(weights(model))
    assert same(*results)


@pytest.mark.parametrize("name", ["sgd", "adafactor", "muon"])
def test_in_place_the_clean_weights_are_the_bare_optimizers_up_to_rounding(name):
    results = []
    for noisy in (False, True):
        model = model_of()
        optimizer = WRAPPED[name](list(model.named_parameters()))
        if noisy:
            optimizer = WeightNoise(optimizer, variability=0.3)
        steps(model, optimizer, 0, 5)
        if noisy:
            optimizer.denoise()
        results.append(weights(model))
    for a, b in zip(*results):
        # Each of 5 steps rounds weight + noise, below 4 with noise of at most 5.13 * 0.3, twice: 5 * 2^-22.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=5 * 2**-22)


@pytest.mark.parametrize("masters", [False, True])
@pytest.mark.parametrize("options", [{}, {"denoise_every": 3}, {"noise": "laplace", "seed": 5}, {"draws": "cycle"}])
def test_the_noise_is_that_of_the_fused_optimizer(options, masters):
    """Named parameters draw from the same streams, and a step from the same counter."""
    noises = []
    for make in (
        lambda named: WeightNoise(
            torch.optim.SGD(named, lr=0.0), variability=0.1, master_weights=masters, **{"seed": 0, **options}
        ),
        lambda named: NVRMSGD(named, lr=0.0, variability=0.1, master_weights=masters, **{"seed": 0, **options}),
    ):
        model = model_of()
        optimizer = make(list(model.named_parameters()))
        noises.append([])
        for step in range(1, 5):
            gradients(model, step)
            optimizer.step()
            noises[-1] += weights(model)
    for a, b in zip(*noises):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if masters else 4e-7)


def test_the_noise_has_the_scale_and_the_law():
    p = nn.Parameter(torch.zeros(200_000))
    optimizer = WeightNoise(torch.optim.SGD([p], lr=0.0), variability=0.1, seed=3)
    p.grad = torch.ones_like(p)
    optimizer.step()
    # 200,000 values: 5 standard errors, an alarm in a million.
    assert abs(p.std().item() / 0.1 - 1) < 5 / math.sqrt(2 * p.numel())
    assert abs(p.mean().item()) < 0.1 * 5 / math.sqrt(p.numel())


def test_include_and_exclude():
    model = model_of()
    named = list(model.named_parameters())
    by = {
        "names": dict(include="*weight", exclude=["1.*"]),
        "modules": dict(include=[model[0], model[3]], exclude="*bias"),
        "function": dict(include=lambda name, p: p.dim() == 2),
    }
    for options in by.values():
        optimizer = WeightNoise(torch.optim.SGD(named, lr=0.0), **options)
        before = weights(model)
        steps(model, optimizer, 0, 1)
        moved = [name for (name, p), old in zip(named, before) if not torch.equal(p, old)]
        assert moved == ["0.weight", "3.weight"]
        optimizer.denoise()


def test_start_step():
    model = model_of()
    optimizer = WeightNoise(torch.optim.SGD(model.parameters(), lr=0.0), variability=0.1, start_step=2)
    for step in range(4):
        steps(model, optimizer, step, step + 1)
        assert optimizer.is_perturbed() == (step >= 2)


def test_groups_have_noise_of_their_own_and_one_learning_rate_with_the_wrapped_optimizer():
    model = model_of()
    inner = torch.optim.SGD([
        {"params": model[0].parameters(), "variability": 0.2, "lr": 0.0}, {"params": model[3].parameters(), "lr": 0.0}
    ])  # fmt: skip
    optimizer = WeightNoise(inner, variability=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.add_param_group({"params": model[1].parameters(), "lr": 1.0})
    before = weights(model)
    gradients(model, 0)
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, weights(model))]
    assert moved == [True, True, True, True, False]  # noise, noise, learning rate, learning rate, neither
    inner.param_groups[0]["lr"] = 0.25
    scheduler.step()
    assert optimizer.param_groups is inner.param_groups and inner.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("masters", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw foreach", "adafactor", "muon", "soap"])
def test_a_checkpoint_resumes_bit_for_bit(name, masters, tmp_path):
    def make(model):
        return WeightNoise(WRAPPED[name](list(model.named_parameters())), variability=0.1, master_weights=masters)

    model = model_of()
    optimizer = make(model)
    steps(model, optimizer, 0, 3)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "noisy.pt")
    with optimizer.denoised():
        clean = weights(model)
        torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "clean.pt")
    steps(model, optimizer, 3, 6)
    for file in ("noisy.pt", "clean.pt"):
        again = model_of()
        other = make(again)
        loaded = torch.load(tmp_path / file)
        again.load_state_dict(loaded[0])
        if file == "clean.pt":
            assert same(clean, weights(again))
        other.load_state_dict(loaded[1])
        if file == "clean.pt":
            with pytest.raises(RuntimeError, match="train"):
                other.step()
            other.train()
        steps(again, other, 3, 6)
        assert same(weights(model), weights(again))
        optimizer_state, other_state = optimizer.state_dict(), other.state_dict()
        assert optimizer_state["state"].keys() == other_state["state"].keys()


def test_checkpoints_of_the_bare_optimizer_load_and_hooks_see_both_states():
    model = model_of()
    bare = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps(model, bare, 0, 2)
    again = copy.deepcopy(model)
    optimizer = WeightNoise(torch.optim.AdamW(again.parameters(), lr=1e-3), variability=0.2, master_weights=True)
    optimizer.load_state_dict(bare.state_dict())
    assert optimizer.param_groups[0]["lr"] == 1e-2 and optimizer.param_groups[0]["variability"] == 0.2
    steps(model, bare, 2, 4)
    steps(again, optimizer, 2, 4)
    seen = []
    optimizer.register_state_dict_post_hook(lambda _, state_dict: seen.append(set(state_dict["state"][0])))
    optimizer.state_dict()
    assert seen == [{"step", "exp_avg", "exp_avg_sq", "perturbation", "master_param"}]
    optimizer.denoise()
    assert same(weights(model), weights(again))


@pytest.mark.parametrize("evaluating", [False, True])
def test_copies_go_on_bit_for_bit(evaluating):
    model = model_of()
    optimizer = WeightNoise(WRAPPED["adafactor"](list(model.named_parameters())), exclude="*bias", variability=0.1)
    steps(model, optimizer, 0, 2)
    if evaluating:
        optimizer.eval()
    again, other = copy.deepcopy((model, optimizer))
    assert other.optimizer is not optimizer.optimizer and other.param_groups is other.optimizer.param_groups
    for each, its in ((model, optimizer), (again, other)):
        its.train()
        steps(each, its, 2, 4)
    assert same(weights(model), weights(again))


def test_a_closure_is_evaluated_under_the_noise_of_before():
    model = model_of()
    x, y = torch.randn(16, 5), torch.randn(16, 3)
    optimizer = WeightNoise(torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=3), variability=0.05, seed=1)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        seen.append((optimizer.is_perturbed(), loss.item()))
        return loss

    first = optimizer.step(closure)
    assert [on for on, _ in seen] == [False] * len(seen) and first.item() == seen[0][1]
    seen.clear()
    for _ in range(20):
        optimizer.step(closure)
    assert all(on for on, _ in seen) and seen[-1][1] < first.item()


def test_sam_ascends_from_clean_weights_and_takes_its_gradients_under_the_noise():
    """The clean weights are those of SAM on the same noisy loss, evaluated by hand with the noise added."""
    x, y = torch.randn(16, 5), torch.randn(16, 3)
    model = model_of()
    optimizer = WeightNoise(Sam(model.parameters(), torch.optim.SGD, lr=0.1), variability=0.1, master_weights=True)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    noisy = weights(model)
    with optimizer.denoised():
        clean = weights(model)
    by_hand = model_of()
    with torch.no_grad():
        for p, value in zip(by_hand.parameters(), clean):
            p.copy_(value)
    noise = [a - b for a, b in zip(noisy, clean)]
    sam = Sam(by_hand.parameters(), torch.optim.SGD, lr=0.1)

    def with_noise():
        sam.zero_grad()
        shifted = dict(zip(dict(by_hand.named_parameters()), (p + e for p, e in zip(by_hand.parameters(), noise))))
        loss = (torch.func.functional_call(by_hand, shifted, (x,)) - y).square().mean()
        loss.backward()
        return loss

    sam.step(with_noise)
    optimizer.step(closure)
    optimizer.denoise()
    for a, b in zip(weights(model), weights(by_hand)):
        torch.testing.assert_close(a, b)


def test_a_grad_scaler_skips_steps_without_trace():
    model = model_of()
    optimizer = WeightNoise(torch.optim.SGD(model.parameters(), lr=0.1), variability=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    steps(model, optimizer, 0, 1)
    for bad in (True, False):
        before = weights(model)
        scaler.scale(model(torch.ones(2, 5)).sum()).backward()
        if bad:
            model[0].weight.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        assert same(before, weights(model)) == bad
        optimizer.zero_grad()


def test_what_is_written_under_the_noise_is_kept_with_masters():
    model = model_of()
    optimizer = WeightNoise(torch.optim.SGD(model.parameters(), lr=0.0), variability=0.1, master_weights=True)
    before = weights(model)
    steps(model, optimizer, 0, 2)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    steps(model, optimizer, 2, 3)
    optimizer.denoise()
    torch.testing.assert_close(model[0].weight, before[0] + 1)
    with torch.no_grad():  # while it is clean
        model[0].weight.fill_(3.0)
    steps(model, optimizer, 3, 4)
    optimizer.denoise()
    assert torch.equal(model[0].weight, torch.full_like(before[0], 3.0))


def test_an_error_of_the_wrapped_optimizer_leaves_clean_weights():
    model = model_of()
    optimizer = WeightNoise(torch.optim.SGD(model.parameters(), lr=0.1), variability=0.1, master_weights=True)
    steps(model, optimizer, 0, 1)
    with optimizer.denoised():
        clean = weights(model)
    gradients(model, 1)
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(TypeError):
        optimizer.step()
    assert not optimizer.is_perturbed() and same(clean, weights(model))


def test_parameters_without_a_gradient_keep_their_noise():
    model = model_of()
    optimizer = WeightNoise(torch.optim.SGD(model.parameters(), lr=0.1), variability=0.1)
    steps(model, optimizer, 0, 1)
    before = weights(model)
    gradients(model, 1)
    model[3].weight.grad = None
    optimizer.step()
    kept = [torch.equal(a, b) for a, b in zip(before, weights(model))]
    assert kept == [False, False, False, False, True]


BAD = {
    "wrapped twice": (lambda p: WeightNoise(NVRMSGD(p)), TypeError, "carries weight noise already"),
    "no optimizer": (lambda p: WeightNoise(p), TypeError, "must be a torch.optim.Optimizer"),
    "variability": (lambda p: WeightNoise(torch.optim.SGD(p), variability=-1.0), ValueError, "variability"),
    "noise": (lambda p: WeightNoise(torch.optim.SGD(p), noise="pink"), ValueError, "noise"),
    "start_step": (lambda p: WeightNoise(torch.optim.SGD(p), start_step=-1), ValueError, "start_step"),
    "no names": (lambda p: WeightNoise(torch.optim.SGD(p), exclude="*bias"), ValueError, "named_parameters"),
    "nothing left": (lambda p: WeightNoise(torch.optim.SGD(p), include=nn.Linear(1, 1)), ValueError, "leave no"),
    "empty list": (lambda p: WeightNoise(torch.optim.SGD(p), include=[]), ValueError, "include is empty"),
    "a number": (lambda p: WeightNoise(torch.optim.SGD(p), exclude=[3]), TypeError, "exclude takes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    make, error, words = BAD[case]
    with pytest.raises(error, match=words):
        make(list(model_of().parameters()))


def test_a_refused_constructor_leaves_the_optimizer_as_it_was():
    inner = torch.optim.SGD(model_of().parameters(), lr=0.1)
    before, groups = copy.deepcopy(inner.state_dict()), inner.param_groups
    with pytest.raises(ValueError):
        WeightNoise(inner, variability=math.nan)
    assert inner.state_dict() == before and inner.param_groups is groups


def test_steps_in_the_backward_pass_are_refused():
    with pytest.raises(RuntimeError, match="step_in_backward"):
        WeightNoise(torch.optim.SGD(model_of().parameters())).step_in_backward()


def test_reset_state():
    model = model_of()
    optimizer = WeightNoise(torch.optim.Adam(model.parameters()), variability=0.1, master_weights=True)
    steps(model, optimizer, 0, 2)
    with optimizer.denoised():
        clean = weights(model)
    optimizer.reset_state()
    assert same(clean, weights(model)) and not optimizer.state and not optimizer.optimizer.state


def test_under_torch_compile_the_step_runs_outside_of_the_graph():
    results = []
    for compiled in (False, True):
        model = model_of()
        optimizer = WeightNoise(torch.optim.Adafactor(model.parameters(), lr=1e-2), variability=0.1)
        step = torch.compile(lambda o=optimizer: o.step(), backend="eager") if compiled else optimizer.step
        for i in range(3):
            gradients(model, i)
            step()
        results.append(weights(model))
    assert same(*results)
