"""optimizer.predict(): an ensemble of perturbed copies, and a model that is as before."""

import math

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD, NVRMAdamW, WeightNoise

MAKE = {
    "in place": lambda named: NVRMSGD(named, lr=0.1, momentum=0.9, variability=0.2, seed=4),
    "masters": lambda named: NVRMAdamW(named, lr=0.01, variability=0.2, seed=4, master_weights=True),
    "wrapped": lambda named: WeightNoise(torch.optim.Adafactor(named), variability=0.2, seed=4, exclude="2.*"),
}


def trained(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = make(list(model.named_parameters()))
    for step in range(3):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    return model, optimizer


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_everything_is_as_before_and_a_call_can_be_repeated(name, evaluating):
    model, optimizer = trained(MAKE[name])
    x = torch.randn(5, 6)
    if evaluating:
        optimizer.eval()
    before, state = weights(model), {k: v.clone() for k, v in optimizer.state_dict()["state"][0].items()}
    first, second = optimizer.predict(model, x, samples=4), optimizer.predict(model, x, samples=4)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model)))
    after = optimizer.state_dict()["state"][0]
    assert state.keys() == after.keys() and all(torch.equal(state[key], after[key]) for key in state)
    assert not any(each.requires_grad for each in first)


@pytest.mark.parametrize("name", MAKE)
def test_the_samples_are_the_clean_weights_under_noise_of_the_scale(name):
    """The weights that the model is asked with, against the clean ones: the law, and no two samples alike."""
    torch.manual_seed(0)
    model = nn.Linear(200, 300)
    optimizer = MAKE[name]([("0." + n, p) for n, p in model.named_parameters()])
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with optimizer.denoised():
        clean = model.weight.detach().clone()
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.weight.detach() - clean))
    optimizer.predict(model, torch.randn(2, 200), samples=3)
    assert len(seen) == 3
    for i, noise in enumerate(seen):
        # 60,000 values: 5 standard errors.
        assert abs(noise.std().item() / 0.2 - 1) < 5 / math.sqrt(2 * noise.numel())
        for other in seen[:i]:
            correlation = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1].item()
            assert abs(correlation) < 5 / math.sqrt(noise.numel())


def test_the_prediction_is_the_mean_of_the_samples_probabilities():
    model, optimizer = trained(MAKE["in place"])
    x, outputs = torch.randn(5, 6), []
    model.register_forward_hook(lambda module, args, output: outputs.append(output.softmax(1)))
    mean, entropy, information = optimizer.predict(model, x, samples=6)
    expected = torch.stack(outputs).mean(0)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(entropy, -(expected * expected.log()).sum(1))
    assert (information > 0).all() and (information <= entropy).all()


def test_an_exception_in_the_model_leaves_everything_as_before():
    model, optimizer = trained(MAKE["in place"])
    before = weights(model)
    with pytest.raises(RuntimeError):
        optimizer.predict(model, torch.randn(5, 7))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model)))


def test_bad_arguments():
    model, optimizer = trained(MAKE["masters"])
    for samples, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="samples"):
            optimizer.predict(model, torch.randn(2, 6), samples)
    with pytest.raises(TypeError, match="one tensor"):
        optimizer.predict(lambda x: (model(x),), torch.randn(2, 6))
    with pytest.raises(ValueError, match="class_dim"):
        optimizer.predict(lambda x: model(x)[:, None], torch.randn(2, 6))
