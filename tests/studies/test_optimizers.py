import importlib.util

import pytest
import torch
from torch import nn

from studies import StudyError, optimizers
from studies.augmentation import PADDING, crop_and_flip
from studies.optimizers import IVON, NVRM_ADAM, NVRM_SGD, OPTIMIZERS, PERTURBED_SGD, SAM, SGD
from studies.variability.training import TrainingSettings


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss_and_leaves_clean_weights(name):
    inputs, labels = torch.randn(64, 10), torch.randint(3, (64,))
    network = nn.Linear(10, 3)
    settings = TrainingSettings(lr=0.3, adam_lr=0.05, weight_decay=0.0, variability=0.01, momentum=0.9)
    optimizer = optimizers.make_optimizer(name, network, settings, 0, examples=64)

    def loss_of():
        return nn.functional.cross_entropy(network(inputs), labels)

    first = loss_of().item()
    for _ in range(40):
        optimizers.step(name, optimizer, loss_of)
    noisy = network.weight.detach().clone()
    with optimizers.clean_weights(optimizer):
        clean = network.weight.detach().clone()
        assert loss_of().item() < first - 0.1
    assert torch.equal(noisy, clean) != (name in (NVRM_SGD, NVRM_ADAM))
    kept = {SGD: 4, NVRM_SGD: 4, PERTURBED_SGD: 4, SAM: 4, IVON: 8}.get(name, 8)
    # Beside what grows with the weights, ours keep a counter and a record of the noise, 72 bytes a tensor.
    tensors = list(network.parameters())
    more = 72 * len(tensors) / sum(weight.numel() for weight in tensors)
    assert kept <= optimizers.state_bytes_a_parameter(optimizer) < kept + 1 + more


def test_sam_steps_with_the_gradient_from_where_it_climbed():
    weight = nn.Parameter(torch.tensor([2.0, 1.0]))
    model = nn.Module()
    model.weight = weight
    scale = torch.tensor([1.0, 3.0])
    optimizer = optimizers.make_optimizer(
        SAM, model, TrainingSettings(lr=0.1, momentum=0.0, weight_decay=0.0, sam_rho=0.5), 0
    )
    gradient = scale * torch.tensor([2.0, 1.0])
    climbed = torch.tensor([2.0, 1.0]) + 0.5 * gradient / gradient.norm()
    optimizers.step(SAM, optimizer, lambda: (scale * weight**2).sum() / 2)
    torch.testing.assert_close(weight.detach(), torch.tensor([2.0, 1.0]) - 0.1 * scale * climbed)


def test_a_missing_package_is_told(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ivon" else found(name))
    with pytest.raises(StudyError, match="IVON needs the package ivon-opt: pip install ivon-opt"):
        optimizers.require(OPTIMIZERS)


def test_every_image_is_cropped_and_mirrored_by_itself():
    images = torch.arange(3 * 6 * 7, dtype=torch.float32).reshape(1, 3, 6, 7).expand(400, -1, -1, -1) + 1
    out = crop_and_flip(images, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images[0], [PADDING] * 4)
    possible = {}
    for top in range(2 * PADDING + 1):
        for left in range(2 * PADDING + 1):
            crop = padded[:, top : top + 6, left : left + 7]
            possible[crop.numpy().tobytes()] = (top, left, False)
            possible[crop.flip(2).contiguous().numpy().tobytes()] = (top, left, True)
    seen = [possible[image.contiguous().numpy().tobytes()] for image in out]  # a KeyError: not a crop of it
    assert out.shape == images.shape and {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    # Mirrored with chance 1/2: 400 of them leave 160 to 240 with a chance of 4e-5, and the seed is fixed.
    assert 160 < sum(mirrored for *_, mirrored in seen) < 240
    again = crop_and_flip(images, torch.Generator().manual_seed(0))
    assert torch.equal(out, again)
