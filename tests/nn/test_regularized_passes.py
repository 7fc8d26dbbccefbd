"""Which passes a regularizer counts: those whose output reaches the loss, once, under every kind of checkpoint."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from nvrm_fast import nn as noisy


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        noisy.StochasticLinear(8, 16, activation="relu"), nn.Linear(16, 16), noisy.StochasticLinear(16, 3)
    )
    noisy.set_regularizer(model, noisy.MaxEntropy("element", margin=1.0))
    return model


x, y = torch.linspace(-1, 1, 48).view(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])


def step(model, run=None, images=x):
    """Loss and gradients of one step with fixed noise of the generator's."""
    torch.manual_seed(7)
    model.zero_grad()
    loss = F.cross_entropy((run or model)(images), y) + 0.5 * noisy.regularizer_loss(model)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def attack(model, images=x, steps=3):
    images = images.clone()
    for _ in range(steps):
        images.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(images), y), images)
        images = (images.detach() + 0.01 * slope.sign()).detach()
    return images


def an_attack(model):
    attack(model)


def an_attack_in_eval(model):
    attack(model.eval())
    model.train()


def a_saliency_map(model):
    model(x.clone().requires_grad_()).sum().backward()


def evaluation(model):
    model.eval()
    for _ in range(20):
        model(x)
    model.train()
    assert all(not layer._passes for layer in (model[0], model[2]))


def no_grad_passes(model):
    with torch.no_grad():
        model(x)


def passes_in_the_block(model):
    with noisy.without_regularizer(model):
        model(x), model(2 * x)


def a_transform(model):
    torch.func.grad(lambda x: model(x).sum(), has_aux=False)(x)


def an_earlier_step(model):
    step(model, lambda x: checkpoint(model, x, use_reentrant=True), x.clone().requires_grad_())


def an_attack_through_a_checkpoint(model):
    images = x.clone().requires_grad_()
    F.cross_entropy(checkpoint(model, images, use_reentrant=True), y).backward()
    model.zero_grad()


BEFORE = [
    an_attack, an_attack_in_eval, a_saliency_map, evaluation, no_grad_passes, passes_in_the_block, a_transform,
    an_earlier_step, an_attack_through_a_checkpoint,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")
@pytest.mark.parametrize("before", BEFORE)
def test_other_passes_before_a_step_change_nothing(before):
    expected = step(network())
    model = network()
    before(model)
    loss, gradients = step(model)
    assert torch.equal(loss, expected[0])
    for found, truth in zip(gradients, expected[1]):
        assert torch.equal(found, truth)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_checkpoints_of_either_kind(reentrant, parts):
    """Loss and gradients of the step without a checkpoint, and again in the second step."""

    def run(images):
        if parts == 1:
            return checkpoint(model, images, use_reentrant=reentrant)
        for layer in model:
            images = checkpoint(layer, images, use_reentrant=reentrant)
        return images

    expected, model = step(network()), network()
    for _ in range(2):
        loss, gradients = step(model, run, x.clone().requires_grad_())
        torch.testing.assert_close(loss, expected[0])
        for found, truth in zip(gradients, expected[1]):
            torch.testing.assert_close(found, truth)
    assert not any(layer._replayed or layer._passes for layer in (model[0], model[2]))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_that_occurs_twice_inside_checkpoints(reentrant):
    torch.manual_seed(0)
    layer = noisy.StochasticLinear(8, 8)
    noisy.set_regularizer(layer, noisy.MaxEntropy("neuron", margin=1.0))
    results = []
    again = lambda x: checkpoint(layer, x, use_reentrant=reentrant)  # noqa: E731
    for run in (lambda x: layer(layer(x)), lambda x: again(again(x))):
        layer.zero_grad()
        torch.manual_seed(3)
        images = x.clone().requires_grad_()
        (run(images).square().sum() + noisy.regularizer_loss(layer)).backward()
        results.append([images.grad, *(p.grad.clone() for p in layer.parameters())])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_whose_loss_has_no_penalty(reentrant):
    model = network()
    F.cross_entropy(checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant), y).backward()
    with pytest.raises(RuntimeError, match="no stochastic layer has made a forward pass"):
        noisy.regularizer_loss(model)


def test_accumulation_adds_up():
    model = network()
    step(model)
    _, one = step(model)
    torch.manual_seed(7)
    model.zero_grad()
    for _ in range(2):
        torch.manual_seed(7)
        (0.5 * (F.cross_entropy(model(x), y) + 0.5 * noisy.regularizer_loss(model))).backward()
    for p, truth in zip(model.parameters(), one):
        torch.testing.assert_close(p.grad, truth)


def test_a_spent_pass_is_refused_with_the_reason():
    model = network()
    F.cross_entropy(model(x), y).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated already"):
        noisy.regularizer_loss(model)


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_under_distributed_data_parallel(reentrant, process_group):
    """DDP copies and hooks the model, and a reentrant checkpoint runs a backward pass inside the backward pass."""
    expected, model = step(network()), network()
    # Without static_graph DDP refuses a parameter that becomes ready in an inner backward pass and in the outer one.
    parallel = DistributedDataParallel(model, static_graph=True)
    for _ in range(2):
        loss, gradients = step(
            model, lambda x: checkpoint(parallel, x, use_reentrant=reentrant), x.clone().requires_grad_()
        )
        torch.testing.assert_close(loss, expected[0])
        for found, truth in zip(gradients, expected[1]):
            torch.testing.assert_close(found, truth)
