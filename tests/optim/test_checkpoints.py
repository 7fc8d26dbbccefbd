"""Checkpoints: every way to save, old versions, other dtypes, weights that are written while the noise is off."""

import copy
import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from training import Model, same, train, weights

from nvrm_fast import NVRMSGD, NVRMAdamW, PerturbedSGD
from nvrm_fast.contract.distributions import NOISE_CONTRACT
from nvrm_fast.optim import checkpoint

FOLDER = Path(__file__).with_name("checkpoints")
STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


def load_maker():
    spec = importlib.util.spec_from_file_location("make_checkpoints", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_saved(version: str, kind: str):
    """The maker's module, what it saved, and parameters with the saved values."""
    maker = load_maker()
    saved = torch.load(FOLDER / f"{version}.pt")[kind]
    params = maker.parameters(kind)
    with torch.no_grad():
        for p, value in zip(params, saved["params"]):
            p.copy_(value)
    return maker, saved, params


KINDS = ["sgd", "adamw", "adamw masters", "perturbed"]
SAVED = [*(("version_2", kind) for kind in KINDS), *(("version_3", kind) for kind in (*KINDS, "cycle", "relative"))]


@pytest.mark.parametrize("version, kind", SAVED)
def test_what_users_have_saved_keeps_loading(version, kind):
    """Bit for bit: three more steps end where they ended when the checkpoint was made, "cycle" in mid-cycle."""
    assert SAVED[-1][0] == f"version_{checkpoint.VERSION}"
    maker, saved, params = load_saved(version, kind)
    cls, _ = maker.CLASSES[kind]
    optimizer = cls(params, lr=0.5)
    optimizer.load_state_dict(saved["optimizer"])
    maker.steps(params, optimizer, range(3, 6))
    assert all(torch.equal(p, value) for p, value in zip(params, saved["three steps later"]))


OLD = pytest.mark.parametrize("version", ["version_0", "version_1"])
REFUSED = "the checkpoint's parameter 0 carries noise of contract 1.*load model and optimizer with the nvrm_fast that"


@OLD
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_noise_of_an_earlier_contract_in_place_is_refused(version, kind):
    """It could not be taken off again: nothing is written, and the message says what to do."""
    maker, saved, params = load_saved(version, kind)
    cls, _ = maker.CLASSES[kind]
    optimizer = cls(params, lr=0.5)
    maker.steps(params, optimizer, range(1))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=REFUSED):
        optimizer.load_state_dict(saved["optimizer"])
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for i, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(after["state"][i][key]), torch.as_tensor(value))

    # In evaluation mode the noise lies in the state: the same.
    at_rest = copy.deepcopy(saved["optimizer"])
    for state, value in zip(at_rest["state"].values(), saved["params"]):
        state.update(coat_scale=0.0, resting_scale=state["coat_scale"], noisy_param=value)
    with pytest.raises(ValueError, match=REFUSED):
        optimizer.load_state_dict(at_rest)

    # Pickled whole.
    for group in optimizer.param_groups:
        del group["noise_contract"]
    with pytest.raises(ValueError, match="carries noise of contract 1"):
        pickle.loads(pickle.dumps(optimizer))

    # Without noise it loads.
    clean = copy.deepcopy(saved["optimizer"])
    for state in clean["state"].values():
        state["coat_scale"] = 0.0
    optimizer.load_state_dict(clean)
    assert all(group["noise_contract"] == NOISE_CONTRACT for group in optimizer.param_groups)
    maker.steps(params, optimizer, range(3, 6))


@OLD
def test_with_masters_noise_of_an_earlier_contract_loads(version):
    """The clean weights are in the state: they train on as if there had been no noise."""
    clean = []
    for variability in (None, 0.0):
        maker, saved, params = load_saved(version, "adamw masters")
        optimizer = NVRMAdamW(params, lr=0.5)
        optimizer.load_state_dict(saved["optimizer"])
        for i, p in enumerate(params):
            assert torch.equal(optimizer.state[p]["master_param"], saved["optimizer"]["state"][i]["master_param"])
        if variability is not None:
            optimizer.param_groups[0]["variability"] = variability
        maker.steps(params, optimizer, range(3, 6))
        optimizer.denoise()
        clean.append([optimizer.state[p]["master_param"].clone() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*clean))


@OLD
def test_noise_that_stays_loads_from_an_earlier_contract(version):
    """PerturbedSGD's noise never comes off: momentum and counters go on, under fresh noise."""
    maker, saved, params = load_saved(version, "perturbed")
    optimizer = PerturbedSGD(params, lr=0.5)
    optimizer.load_state_dict(saved["optimizer"])
    maker.steps(params, optimizer, range(3, 6))
    for p, value in zip(params, saved["three steps later"]):
        assert int(optimizer.state[p]["step"]) == 6
        # Three draws with b = 0.05, each at most 5.14 away from 0, in either run.
        torch.testing.assert_close(p, value, rtol=0, atol=3 * 2 * 0.05 * 5.14)


def test_a_version_from_the_future_is_refused():
    params = [torch.nn.Parameter(torch.zeros(3))]
    optimizer = NVRMSGD(params)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["checkpoint_version"] = checkpoint.VERSION + 1
    saved["param_groups"][0]["lr"] = 7.0
    with pytest.raises(
        ValueError, match="the checkpoint has version 4, and this nvrm_fast reads up to 3: install a later"
    ):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 1e-3


@STORAGES
@pytest.mark.parametrize("cls, options", [(NVRMSGD, dict(lr=0.1, momentum=0.9)), (NVRMAdamW, {})])
def test_torch_distributed_checkpoint(cls, options, masters, tmp_path):
    """In the middle of an epoch, noise on, into a fresh model and optimizer (more placements: test_distributed.py)."""
    straight = Model()
    optimizer = cls(straight.parameters(), variability=0.05, master_weights=masters, **options)
    train(straight, optimizer, 4)
    # A parameter that never had a gradient has no state: torch's flattening refuses it, so give everything one.
    straight.unused.grad = torch.ones_like(straight.unused)
    optimizer.step()
    before = weights(straight)
    model_state, optimizer_state = get_state_dict(straight, optimizer)
    assert same(before, weights(straight))
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=tmp_path, no_dist=True)

    resumed = Model()
    again = cls(resumed.parameters(), variability=0.3, master_weights=masters, **options)
    fresh = weights(resumed)
    found = dict(zip(("model", "optimizer"), get_state_dict(resumed, again)))
    assert same(fresh, weights(resumed)), "making the state puts no noise on"
    dcp.load(found, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(resumed, again, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
    assert same(before, weights(resumed))
    train(straight, optimizer, 3, start=4)
    train(resumed, again, 3, start=4)
    assert same(weights(straight), weights(resumed))


def test_clean_weights_in_one_line(tmp_path):
    model = Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.05)
    train(model, optimizer, 3)
    noisy = weights(model)
    with optimizer.denoised():
        torch.save(model.state_dict(), tmp_path / "clean.pt")
    assert same(noisy, weights(model))
    saved = torch.load(tmp_path / "clean.pt")
    optimizer.denoise()
    assert same(saved, weights(model)) and not same(noisy, saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cls, options", [(NVRMSGD, dict(lr=0.1, momentum=0.9)), (NVRMAdamW, {})])
def test_from_float32_to_sixteen_bits(cls, options, dtype):
    """A float32 checkpoint, noise on, goes on in 16 bits: masters are the clean float32 weights (rounded to the loaded
    parameters' 16 bits), states keep their values; the same by casting the model."""
    wide = Model()
    optimizer = cls(wide.parameters(), variability=0.05, **options)
    train(wide, optimizer, 3)
    narrow = Model(dtype)
    narrow.load_state_dict(wide.state_dict())
    loaded = cls(narrow.parameters(), variability=0.05, **options)
    loaded.load_state_dict(optimizer.state_dict())
    cast, caster = copy.deepcopy((wide, optimizer))
    cast.to(dtype)
    optimizer.denoise()
    clean = weights(wide)
    for model, own in ((narrow, loaded), (cast, caster)):
        train(model, own, 1, start=3)
        for name, param in model.named_parameters():
            if name == "unused":
                continue
            state = own.state[param]
            assert {v.dtype for k, v in state.items() if isinstance(v, torch.Tensor) and v.is_floating_point()} == {
                torch.float32
            }
            # One step of lr 0.1 or 0.001 away, and half an ulp of 16 bits of numbers below two.
            torch.testing.assert_close(state["master_param"], clean[name], rtol=0, atol=0.4)
        with own.denoised():
            for name, param in model.named_parameters():
                if name != "unused":
                    assert torch.equal(param, own.state[param]["master_param"].to(dtype))


@STORAGES
def test_weights_written_while_the_noise_is_off_are_kept(masters):
    """Loading, averaging or clipping inside denoised(): what was written goes on training, under its noise."""
    model = Model()
    optimizer = NVRMAdamW(model.named_parameters(), variability=0.05, master_weights=masters, seed=3)
    train(model, optimizer, 3)
    noisy = weights(model)
    with optimizer.denoised():
        clean = weights(model)
        with torch.no_grad():
            model.linear.weight.clamp_(-0.1, 0.1)
            model.scalar.mul_(0.5)
    after = weights(model)
    for name in noisy:
        if name not in ("linear.weight", "scalar"):
            assert torch.equal(after[name], noisy[name])
    # The noise is the one that was on: the difference to the written weights is the difference to the old ones.
    drawn = after["linear.weight"] - clean["linear.weight"].clamp(-0.1, 0.1)
    torch.testing.assert_close(drawn, noisy["linear.weight"] - clean["linear.weight"], rtol=0, atol=1e-6)
    optimizer.denoise()
    end = weights(model)
    exact = dict(rtol=0, atol=0.0 if masters else 1e-7)
    torch.testing.assert_close(end["linear.weight"], clean["linear.weight"].clamp(-0.1, 0.1), **exact)
    torch.testing.assert_close(end["scalar"], clean["scalar"] * 0.5, **exact)


def test_loading_an_optimizer_while_the_noise_is_off():
    """The checkpoint's record counts, not what was to be put on again."""
    model, other = Model(), Model()
    optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.05)
    teacher = NVRMSGD(other.parameters(), lr=0.1, variability=0.05, seed=9)
    train(model, optimizer, 2)
    train(other, teacher, 3)
    with optimizer.denoised():
        model.load_state_dict(other.state_dict())
        optimizer.load_state_dict(teacher.state_dict())
    assert same(weights(model), weights(other))
    optimizer.denoise()
    teacher.denoise()
    assert same(weights(model), weights(other))
