"""Bad input gets an error that names the argument, and nothing is written."""

import copy

import pytest
import torch

from nvrm_fast import NVRMSGD, SGLD, NVRMAdam, NVRMAdamW, PerturbedSGD

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam, NVRMAdamW, PerturbedSGD])
@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(lr=-0.1), ValueError, "Invalid learning rate"),
        (dict(lr=NAN), ValueError, "Invalid learning rate"),
        (dict(lr=INFINITY), ValueError, "Invalid learning rate"),
        (dict(weight_decay=-1), ValueError, "Invalid weight_decay"),
        (dict(variability=-0.1), ValueError, "Invalid variability"),
        (dict(variability=NAN), ValueError, "Invalid variability"),
        (dict(noise="cauchy"), ValueError, "noise must be one of gaussian, uniform, laplace"),
        (dict(seed=-1), ValueError, "seed must be in"),
        (dict(seed=2**64), ValueError, "seed must be in"),
        (dict(seed=1.5), TypeError, "seed must be an int"),
        (dict(master_weights="yes"), ValueError, "master_weights must be None, True or False"),
        (dict(backend="cuda"), ValueError, "backend must be one of"),
        (dict(differentiable=True), ValueError, "differentiable=True is not supported"),
    ],
)
def test_common_options(cls, options, error, message):
    with pytest.raises(error, match=message):
        cls([torch.nn.Parameter(torch.zeros(2))], **options)


@pytest.mark.parametrize(
    "cls, options, message",
    [
        (NVRMSGD, dict(momentum=-1), "Invalid momentum"),
        (NVRMSGD, dict(nesterov=True), "Nesterov momentum requires"),
        (NVRMSGD, dict(dampening=NAN), "Invalid dampening"),
        (NVRMSGD, dict(denoise_every=0), "denoise_every must be"),
        (NVRMAdam, dict(betas=(1.0, 0.9)), "Invalid beta parameter at index 0"),
        (NVRMAdam, dict(betas=(0.9, -0.1)), "Invalid beta parameter at index 1"),
        (NVRMAdam, dict(eps=-1), "Invalid epsilon"),
        (NVRMAdam, dict(decorrelate_ranks=True, master_weights=False), "decorrelate_ranks=True needs master weights"),
        (SGLD, dict(temperature=-1), "Invalid temperature"),
    ],
)
def test_options_of_one_class(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls([torch.nn.Parameter(torch.zeros(2))], **options)


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])
def test_bad_parameters(cls):
    with pytest.raises(TypeError, match=r"parameter 'w' is torch.complex64"):
        cls([("w", torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64)))])
    with pytest.raises(TypeError, match=r"parameter 0 \(pass named_parameters"):
        cls([torch.zeros(2, dtype=torch.int32)])
    with pytest.raises(ValueError, match="empty parameter list"):
        cls([])
    good = cls([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(TypeError, match="complex"):
        good.add_param_group(dict(params=[torch.zeros(2, dtype=torch.complex64)]))
    assert len(good.param_groups) == 1


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])
def test_a_refused_step_writes_nothing(cls):
    """The last parameter of the last group is bad: the first is not touched either."""
    first = torch.nn.Parameter(torch.ones(200))
    embedding = torch.nn.Embedding(4, 3, sparse=True)
    optimizer = cls([dict(params=[first]), dict(params=[embedding.weight])], variability=0.1)
    first.grad = torch.ones(200)
    embedding(torch.tensor([1])).sum().backward()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(RuntimeError, match=r"parameter 1 \(pass named_parameters.*sparse=False"):
        optimizer.step()
    assert torch.equal(first, torch.ones(200))
    assert optimizer.state_dict() == before
    embedding.weight.grad = None
    optimizer.param_groups[1]["variability"] = NAN
    with pytest.raises(ValueError, match="Invalid variability"):
        optimizer.step()
    assert torch.equal(first, torch.ones(200)) and not optimizer.state


def test_parameters_without_gradient_are_left_alone():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = NVRMSGD([p, q], lr=0.1, variability=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(q, torch.ones(3)) and q not in optimizer.state
