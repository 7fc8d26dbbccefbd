"""Noise whose scale is relative to the clean weights (`relative`, `per`): what it is, and when it is measured."""

import copy
import math

import pytest
import torch
from torch import nn

import nvrm_fast
from nvrm_fast import NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion
from nvrm_fast.contract.measures import ABSMAX, CLEAN, ON, RMS
from nvrm_fast.optim import WeightNoise
from nvrm_fast.reference import noise
from nvrm_fast.reference.measure import finish, sums_of

pytestmark = pytest.mark.filterwarnings("ignore:nvrm_fast computes in plain torch")

SHAPES = [(6, 40), (50,), (3, 2, 5, 5), ()]
OPTIONS = [(relative, per) for relative in ("rms", "absmax") for per in ("tensor", "row")]
EVERY_OPTION = pytest.mark.parametrize(("relative", "per"), OPTIONS)


def make_params(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter((torch.randn(shape, generator=generator) * 0.3).to(dtype)) for shape in SHAPES]


def give_gradients(params, step):
    for i, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i)).to(p.dtype)


def measure_of(w, relative, per):
    """What the contract says, in float64, a value for each element."""
    w = w.detach().float().double()
    rows = w.flatten(1) if per == "row" and w.dim() > 1 else w.reshape(1, -1)
    m = rows.square().mean(1).sqrt() if relative == "rms" else rows.abs().amax(1)
    return m.float()[:, None].expand_as(rows).reshape(w.shape)


@EVERY_OPTION
@pytest.mark.parametrize("masters", [False, True])
def test_the_noise_is_scaled_by_the_weights_before_the_step(relative, per, masters):
    """Three steps: what is on is variability * measure(weights before) * unit noise, at every element."""
    params = make_params()
    optimizer = NVRMSGD(params, lr=0.3, variability=0.2, relative=relative, per=per, seed=7, master_weights=masters)
    for step in range(3):
        with optimizer.denoised():
            before = [p.detach().clone() for p in params]
        give_gradients(params, step)
        optimizer.step()
        for p, w, g in zip(params, before, [p.grad for p in params]):
            record = optimizer.state[p]["perturbation"].tolist()
            unit = noise(p.numel(), seed=7, stream=record[3], step=step + 1, distribution=0, scale=1.0, offset=0)
            expected = w - 0.3 * g + 0.2 * measure_of(w, relative, per) * unit.view(p.shape)
            torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)
            with optimizer.denoised():  # exactly what was put on comes off
                torch.testing.assert_close(p.detach(), w - 0.3 * g, rtol=1e-6, atol=2e-7)


def test_sums_of_squares_are_exact_and_order_free():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4000, generator=generator) * torch.logspace(-12, 4, 4000)
    exact = sum(round(min(abs(w), 65536.0) ** 2 * 2**64) for w in map(float_of_fraction, x.tolist()))
    sums = sums_of(x, RMS, None, 1)[0].tolist()
    assert sums[0] + (sums[1] << 32) + (sums[2] << 64) == exact and sums[3] == 0
    shuffled = x[torch.randperm(4000, generator=generator)]
    parts = sum(sums_of(part, RMS, None, 1) for part in shuffled.split(300))
    assert torch.equal(finish(parts, RMS, 4000), finish(sums_of(x, RMS, None, 1), RMS, 4000))


def float_of_fraction(value):
    from fractions import Fraction

    return Fraction(value)


def test_measures_of_extreme_weights():
    """Saturation, weights too small for a square, no weights, and weights that are broken."""
    assert finish(sums_of(torch.full((7,), 1e30), RMS, None, 1), RMS, 7) == 65536.0
    assert finish(sums_of(torch.full((7,), 2.0**-34), RMS, None, 1), RMS, 7) == 0
    assert finish(sums_of(torch.full((7,), 2.0**-31), RMS, None, 1), RMS, 7) == 2.0**-31
    assert finish(sums_of(torch.full((7,), 1e30), ABSMAX, None, 1), ABSMAX, 7) == torch.tensor(1e30)
    for code in (RMS, ABSMAX):
        assert finish(sums_of(torch.empty(0), code, None, 1), code, 0) == 0
        for broken in (math.nan, math.inf, -math.inf):
            assert finish(sums_of(torch.tensor([1.0, broken]), code, None, 1), code, 2).isnan()


@EVERY_OPTION
def test_a_broken_weight_leaves_the_others_alone(relative, per):
    """What has a NaN carries no noise: the weights beside it stay finite, those of other rows and tensors too."""
    params = make_params()
    with torch.no_grad():
        params[0][2, 3] = math.nan
    optimizer = NVRMSGD(params, lr=0.0, variability=0.2, relative=relative, per=per)
    with torch.no_grad():
        clean = [p.detach().clone() for p in params]
    for step in range(2):
        give_gradients(params, step)
        for p in params:
            p.grad.zero_()
        params[1].grad.fill_(1e-30)
        optimizer.step()
        for i, p in enumerate(params):
            broken = clean[i].isnan()
            assert torch.equal(p.isnan(), broken)
        row = params[0][2].detach()
        torch.testing.assert_close(row, clean[0][2], equal_nan=True, rtol=0, atol=0)
        assert not torch.equal(params[0][0], clean[0][0]) or per == "tensor"


@EVERY_OPTION
@pytest.mark.parametrize(("dtype", "masters"), [(torch.float32, False), (torch.bfloat16, True), (torch.float64, False)])
def test_measuring_again_changes_no_bit(relative, per, dtype, masters):
    """A run that is looked at, copied and saved in between is the run that is not."""

    def run(disturb):
        params = make_params(dtype)
        optimizer = NVRMAdam(
            params, lr=0.01, variability=0.1, relative=relative, per=per, seed=1, master_weights=masters
        )
        for step in range(5):
            give_gradients(params, step)
            optimizer.step()
            params, optimizer = disturb(params, optimizer, step) if step < 3 else (params, optimizer)
        return [p.detach() for p in params], [optimizer.state[p]["weight_measure"] for p in params]

    def look(params, optimizer, step):
        with optimizer.denoised():
            pass
        return params, optimizer

    def reload(params, optimizer, step):
        new = [nn.Parameter(p.detach().clone()) for p in params]
        other = NVRMAdam(new, lr=0.01, variability=0.5, relative=relative, per=per, master_weights=masters)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return new, other

    def forget(params, optimizer, step):  # every step takes a measuring pass
        optimizer._plans.clear()
        for p in params:
            optimizer.state[p]["weight_measure"][CLEAN].fill_(math.nan)
        return params, optimizer

    plain = run(lambda params, optimizer, step: (params, optimizer))
    for disturb in (look, reload, forget):
        for a, b in zip(plain, run(disturb)):
            assert all(map(torch.equal, a, b)), disturb


@pytest.mark.parametrize("masters", [False, True])
@pytest.mark.parametrize("way", ["denoise", "denoised", "data", "noisy", "load"])
def test_weights_that_are_written_are_measured(way, masters):
    params = make_params()
    optimizer = NVRMSGD(params, lr=0.0, variability=0.1, relative="absmax", seed=3, master_weights=masters)

    def step():
        for p in params:
            p.grad = torch.full_like(p, 1e-30)
        optimizer.step()

    step()
    step()
    if way == "denoise":
        optimizer.denoise()
        with torch.no_grad():
            params[0].mul_(10)
    elif way == "data":
        optimizer.denoise()
        params[0].data = params[0].data * 10
    elif way == "noisy":
        with torch.no_grad():
            params[0].mul_(10)
    elif way == "load":
        saved = [10 * p.detach() for p in params]
        optimizer.denoise()
        torch._foreach_copy_([p.data for p in params], saved)
    else:
        with optimizer.denoised():
            params[0].data.mul_(10)
    with optimizer.denoised():
        wanted = params[0].abs().max().item()
    step()
    assert optimizer.state[params[0]]["weight_measure"][ON].item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("is_skipped", [False, True])
def test_skipped_steps_leave_the_measures(is_skipped):
    params = make_params()
    optimizer = NVRMSGD(params, lr=0.5, variability=0.1, relative="rms", seed=3, fused=True)
    give_gradients(params, 0)
    optimizer.step()
    before = [optimizer.state[p]["weight_measure"].clone() for p in params]
    optimizer.grad_scale, optimizer.found_inf = torch.ones(()), torch.tensor(float(is_skipped))
    optimizer.step()
    after = [optimizer.state[p]["weight_measure"] for p in params]
    assert all(torch.equal(a, b) == is_skipped for a, b in zip(before, after))


def test_start_step_denoise_every_and_schedules():
    params = make_params()
    optimizer = NVRMSGD(
        params, lr=0.1, variability=torch.tensor(0.5), relative="rms", start_step=2, denoise_every=5, seed=3
    )
    for step in range(7):
        with optimizer.denoised():
            before = [measure_of(p, "rms", "tensor").max() for p in params]
        optimizer.param_groups[0]["variability"] = 0.1 * (step + 1)
        give_gradients(params, step)
        optimizer.step()
        assert optimizer.is_perturbed() == (step >= 2 and step != 4)
        for p, m in zip(params, before):
            torch.testing.assert_close(optimizer.state[p]["weight_measure"][ON].max(), m, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("rms", "tensor"), ("rms", "row")),
        (("rms", "row"), (None, "tensor")),
        ((None, "tensor"), ("absmax", "row")),
        (("rms", "row"), ("absmax", "row")),
    ],
)
def test_options_may_change_between_steps(one, other):
    """What is on comes off as it was put on, whatever the options say now."""
    params = make_params()
    optimizer = NVRMSGD(params, lr=0.1, variability=0.3, relative=one[0], per=one[1], seed=3)
    plain = [p.detach().clone() for p in params]
    for step, (relative, per) in enumerate([one, one, other, other, one]):
        optimizer.param_groups[0].update(relative=relative, per=per)
        give_gradients(params, step)
        for w, p in zip(plain, params):
            w -= 0.1 * p.grad
        optimizer.step()
        with optimizer.denoised():
            for w, p in zip(plain, params):
                torch.testing.assert_close(p.detach(), w, rtol=0, atol=2e-6)


@EVERY_OPTION
def test_all_optimizers(relative, per):
    """One step of each from the same weights: noise that fits them."""
    for make in (
        NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion,
        lambda params, **options: WeightNoise(torch.optim.SGD(params, lr=0.0), **options),
    ):  # fmt: skip
        params = make_params()
        optimizer = make(params, variability=0.1, relative=relative, per=per, seed=5)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        clean = [p.detach().clone() for p in params]
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        for p, w in zip(params, clean):
            record = optimizer.state[p]["perturbation"].tolist()
            unit = noise(p.numel(), seed=5, stream=record[3], step=record[4], distribution=0, scale=1.0, offset=0)
            expected = w + 0.1 * measure_of(w, relative, per) * unit.view(p.shape)
            torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)


def test_weight_noise_measures_the_weights_before_the_wrapped_step():
    params = make_params()
    optimizer = WeightNoise(torch.optim.SGD(params, lr=0.5), variability=0.1, relative="absmax", per="row", seed=5)
    for step in range(3):
        with optimizer.denoised():
            before = [measure_of(p, "absmax", "row").flatten() for p in params]
        give_gradients(params, step)
        optimizer.step()
        for p, m in zip(params, before):
            torch.testing.assert_close(optimizer.state[p]["weight_measure"][ON].max(), m.max(), rtol=1e-5, atol=1e-7)
    file = copy.deepcopy(optimizer.state_dict())
    new = [nn.Parameter(p.detach().clone()) for p in params]
    other = WeightNoise(torch.optim.SGD(new, lr=0.5), variability=0.1, relative="absmax", per="row")
    other.load_state_dict(file)
    for each, own in ((params, optimizer), (new, other)):
        give_gradients(each, 9)
        own.step()
    assert all(torch.equal(a, b) for a, b in zip(params, new))


def test_predictions_have_the_groups_scale_and_leave_no_trace():
    model = nn.Linear(4, 3)
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.2, relative="rms", per="row")
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    optimizer.predict(model, x, samples=3)  # before any step
    model(x).sum().backward()
    optimizer.step()
    kept = copy.deepcopy((list(model.parameters()), optimizer.state_dict()["state"]))
    first = optimizer.predict(model, x, samples=3)
    assert first.mutual_information.max() > 0
    assert torch.equal(first.probabilities, optimizer.predict(model, x, samples=3).probabilities)
    assert all(torch.equal(a, b) for a, b in zip(kept[0], model.parameters()))
    for before, after in zip(kept[1].values(), optimizer.state_dict()["state"].values()):
        assert all(torch.equal(before[key], after[key]) for key in ("weight_measure", "perturbation"))


def test_describe_shows_b():
    params = make_params()
    optimizer = NVRMSGD(params, variability=0.25, relative="rms", seed=1)
    for _ in range(2):
        rows = optimizer.describe().rows
        for row in rows:
            assert row.noise_to_weights == pytest.approx(0.25, rel=1e-4)
        give_gradients(params, 0)
        optimizer.step()


def test_a_lost_state_is_taken_off():
    params = make_params()
    clean = [p.detach().clone() for p in params]
    optimizer = NVRMSGD(params, lr=1e-9, variability=0.5, relative="absmax", per="row", seed=1)
    give_gradients(params, 0)
    optimizer.step()
    optimizer.state.clear()
    with pytest.warns(UserWarning, match="carried noise that this optimizer's state does not know"):
        optimizer.step()
    optimizer.denoise()
    for p, w in zip(params, clean):
        torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("options", "message"), [
    (dict(relative="max"), "relative must be None or one of 'rms', 'absmax'; got 'max'"),
    (dict(relative=3), "relative must be None or one of"),
    (dict(relative="rms", per="column"), "per must be one of 'tensor', 'row'; got 'column'"),
])  # fmt: skip
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NVRMSGD(make_params(), **options)
    with pytest.raises(ValueError, match=message):
        WeightNoise(torch.optim.SGD(make_params(), lr=0.1), **options)


def test_noise_without_its_measures_is_refused():
    params = make_params()
    optimizer = NVRMSGD(params, variability=0.1, relative="rms")
    give_gradients(params, 0)
    optimizer.step()
    del optimizer.state[params[1]]["weight_measure"]
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="parameter 1.*its state has no weight_measure"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params))


def test_with_use_backend():
    """The reference on demand; no warning then."""
    params = make_params()
    optimizer = NVRMSGD(params, variability=0.1, relative="rms")
    give_gradients(params, 0)
    with nvrm_fast.use_backend("reference"):
        optimizer.step()
    assert optimizer.is_perturbed()
