"""include, exclude and start_step: who carries noise, and from which step on; the others follow the plain rule."""

import copy

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion, WeightNoise

CLASSES = {
    "sgd": lambda named, **o: NVRMSGD(named, lr=0.1, momentum=0.9, **o),
    "adam": lambda named, **o: NVRMAdam(named, lr=0.01, **o),
    "adamw": lambda named, **o: NVRMAdamW(named, lr=0.01, **o),
    "lion": lambda named, **o: NVRMLion(named, lr=0.01, **o),
    "wrapped": lambda named, **o: WeightNoise(torch.optim.RMSprop(named, lr=0.01), **o),
}
EVERY = pytest.mark.parametrize("name", CLASSES)
STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


def steps(model, optimizer, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@EVERY
@STORAGES
def test_excluded_parameters_are_the_plain_rules_and_the_others_as_without_it(name, masters):
    results = {}
    for what, options in {
        "some": dict(variability=0.1, exclude=["*bias", "1.*"]),
        "all": dict(variability=0.1),
        "none": dict(variability=0.0),
    }.items():
        model = model_of()
        optimizer = CLASSES[name](list(model.named_parameters()), seed=0, master_weights=masters, **options)
        steps(model, optimizer, 0, 4)
        results[what] = weights(model)
    for key in results["all"]:
        expected = "all" if key in ("0.weight", "2.weight") else "none"
        assert torch.equal(results["some"][key], results[expected][key]), key
        assert not torch.equal(results["all"][key], results["none"][key])


@EVERY
@STORAGES
@pytest.mark.parametrize("scale", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_start_step(name, masters, scale):
    """Clean for so many steps of each parameter, also one whose first gradient is late; then as without it."""
    model = model_of()
    options = dict(seed=0, master_weights=masters)
    optimizer = CLASSES[name](list(model.named_parameters()), variability=scale, start_step=2, **options)
    plain_model = model_of()
    plain = CLASSES[name](list(plain_model.named_parameters()), variability=0.0, **options)
    late = [dict(m.named_parameters())["2.bias"] for m in (model, plain_model)]
    for step in range(4):
        for m, o, p in zip((model, plain_model), (optimizer, plain), late):
            p.requires_grad_(step > 0)
            p.grad = None
            steps_of = torch.Generator().manual_seed(step)
            for other in m.parameters():
                if other.requires_grad:
                    other.grad = torch.randn(other.shape, generator=steps_of)
            o.step()
        same = {key: torch.equal(a, b) for (key, a), b in zip(weights(model).items(), weights(plain_model).values())}
        assert same.pop("2.bias") == (step < 3), step
        assert all(same.values()) if step < 2 else not any(same.values()), step


@EVERY
def test_writes_into_clean_parameters_are_kept(name):
    """They carry no noise, so that values decide, with masters too."""
    model = model_of()
    optimizer = CLASSES[name](list(model.named_parameters()), exclude="*bias", variability=0.1, master_weights=True)
    steps(model, optimizer, 0, 2)
    model[0].bias.data.copy_(torch.full((7,), 9.0))  # raises no version
    steps(model, optimizer, 2, 3)
    assert (model[0].bias > 8).all()


@EVERY
def test_copies_and_checkpoints_keep_the_choice(name):
    model = model_of()
    make = lambda m: CLASSES[name](list(m.named_parameters()), include=["*weight"], seed=0, variability=0.1)  # noqa: E731
    optimizer = make(model)
    steps(model, optimizer, 0, 2)
    copied, its = copy.deepcopy((model, optimizer))
    loaded = model_of()
    other = make(loaded)
    loaded.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    for m, o in ((model, optimizer), (copied, its), (loaded, other)):
        steps(m, o, 2, 4)
    for key, value in weights(model).items():
        assert torch.equal(value, weights(copied)[key]) and torch.equal(value, weights(loaded)[key])


BAD = {
    "no names": (dict(exclude="*bias"), ValueError, "named_parameters"),
    "nothing left": (dict(include=nn.Linear(1, 1)), ValueError, "leave no"),
    "empty list": (dict(include=[]), ValueError, "include is empty"),
    "a number": (dict(exclude=[3]), TypeError, "exclude takes"),
    "start_step": (dict(start_step=-1), ValueError, "start_step"),
    "a fraction": (dict(start_step=1.5), TypeError, "start_step"),
}


@EVERY
@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(name, case):
    options, error, words = BAD[case]
    with pytest.raises(error, match=words):
        CLASSES[name](list(model_of().parameters()), **options)


def test_groups_that_are_added_are_chosen_from_too():
    model = model_of()
    optimizer = NVRMSGD(list(model[0].named_parameters()), lr=0.0, exclude="bias", variability=0.1)
    optimizer.add_param_group({"params": list(model[2].named_parameters())})
    before = weights(model)
    steps(model, optimizer, 0, 1)
    moved = [key for key, value in weights(model).items() if not torch.equal(value, before[key])]
    assert moved == ["0.weight", "2.weight"]


def test_predictions_perturb_what_is_chosen_only():
    model = model_of()
    optimizer = NVRMSGD(list(model.named_parameters()), lr=0.0, include="2.weight", variability=0.1)
    steps(model, optimizer, 0, 1)
    with optimizer.denoised():
        clean, seen = weights(model), []
    model.register_forward_pre_hook(lambda module, _: seen.append(weights(module)))
    optimizer.predict(model, torch.randn(2, 5), samples=2)
    for each in seen:
        assert [key for key in clean if not torch.equal(each[key], clean[key])] == ["2.weight"]


@EVERY
def test_describe_tells_who_carries_noise_and_from_when_on(name):
    model = model_of()
    optimizer = CLASSES[name](list(model.named_parameters()), include="*.weight", start_step=1, variability=0.1)
    expected = dict.fromkeys(dict(model.named_parameters()), 0.0)
    assert {row.name: row.variability for row in optimizer.describe().rows} == expected
    steps(model, optimizer, 0, 1)
    expected.update({key: pytest.approx(0.1) for key in expected if key.endswith("weight")})
    assert {row.name: row.variability for row in optimizer.describe().rows} == expected
    assert str(optimizer.describe()).count("\n") >= len(expected)
