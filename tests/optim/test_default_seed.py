"""A seed that is left out: different for every optimizer of a process, and the same whenever a program runs."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD, SGLD, NVRMAdam, NVRMAdamW, NVRMLion, PerturbedSGD
from nvrm_fast.contract.seeds import default_seed
from nvrm_fast.optim import base
from nvrm_fast.variable_optim import VSGD, VAdam

CLASSES = [NVRMSGD, NVRMAdam, NVRMAdamW, NVRMLion, PerturbedSGD, SGLD, VSGD, VAdam]


@pytest.fixture(autouse=True)
def one_default_seed(monkeypatch):
    """Here, in place of the fixture that gives all tests one seed: as in a fresh process."""
    monkeypatch.setattr(base, "_made", itertools.count())


def make(cls, **options):
    torch.manual_seed(0)
    return cls(nn.Linear(64, 64).named_parameters(), lr=1e-3, **options)


def noise_of(optimizer):
    """What the first step puts on the weights where the gradient is as good as none."""
    params = optimizer.param_groups[0]["params"]
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.full_like(p, 1e-30)
    optimizer.step()
    return torch.cat([(p.detach() - w).flatten() for p, w in zip(params, before)])


@pytest.mark.parametrize("cls", CLASSES)
def test_two_optimizers_draw_different_noise(cls):
    one, two = noise_of(make(cls)), noise_of(make(cls))
    # Independent: the correlation of 4,160 pairs has standard deviation 0.016.
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 0.08


@pytest.mark.parametrize("cls", CLASSES)
def test_the_first_has_seed_0_and_an_explicit_seed_stays(cls):
    first, again = make(cls), make(cls, seed=0)
    assert first.param_groups[0]["seed"] == first.defaults["seed"] == again.param_groups[0]["seed"] == 0
    assert torch.equal(noise_of(first), noise_of(again))


def test_every_run_of_a_program_has_the_same_seeds(monkeypatch):
    runs = []
    for _ in range(2):
        monkeypatch.setattr(base, "_made", itertools.count())
        runs.append([make(cls).param_groups[0]["seed"] for cls in CLASSES])
    assert runs[0] == runs[1] == [default_seed(i) for i in range(len(CLASSES))]
    assert default_seed(1) == 0x49CB5A85A753BC24  # what was trained with it resumes with any later version
    assert len({default_seed(i) for i in range(10_000)}) == 10_000


def test_optimizers_with_a_seed_count():
    """Else a second one without would draw the noise of a first one with seed=0."""
    assert make(NVRMSGD, seed=0).param_groups[0]["seed"] != make(NVRMSGD).param_groups[0]["seed"]


def test_a_refused_optimizer_does_not_count():
    with pytest.raises(ValueError):
        NVRMSGD([nn.Parameter(torch.zeros(1))], lr=-1.0)
    assert make(NVRMSGD).param_groups[0]["seed"] == 0


def test_groups_share_the_optimizers_seed_unless_they_have_one():
    make(NVRMSGD)
    params = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    optimizer = NVRMSGD([{"params": params[:1]}, {"params": params[1:2], "seed": 7}], lr=0.1)
    optimizer.add_param_group({"params": params[2:3]})
    optimizer.add_param_group({"params": params[3:], "seed": None})
    own = default_seed(1)
    assert [group["seed"] for group in optimizer.param_groups] == [own, 7, own, own]


@pytest.mark.parametrize("way", ["load_state_dict", "deepcopy", "pickle"])
def test_what_is_resumed_or_copied_keeps_its_seed(way):
    make(NVRMSGD)
    optimizer = make(NVRMSGD)
    if way == "load_state_dict":
        other = make(NVRMSGD)
        assert other.param_groups[0]["seed"] == default_seed(2)
        other.load_state_dict(optimizer.state_dict())
    else:
        other = copy.deepcopy(optimizer) if way == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
        assert make(NVRMSGD).param_groups[0]["seed"] == default_seed(2)  # a copy is not counted
    assert other.param_groups[0]["seed"] == default_seed(1)


def test_a_state_of_torchs_leaves_the_seed():
    make(NVRMSGD)
    optimizer = make(NVRMSGD)
    optimizer.load_state_dict(make(torch.optim.SGD).state_dict())
    assert optimizer.param_groups[0]["seed"] == default_seed(1)


def test_a_seed_of_none_later_is_refused_by_name():
    optimizer = make(NVRMSGD)
    optimizer.param_groups[0]["seed"] = None
    with pytest.raises(TypeError, match="seed must be an int, got None"):
        noise_of(optimizer)
