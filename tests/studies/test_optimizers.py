import importlib.util

import pytest
import torch
from torch import nn

from studies import StudyError, optimizers
from studies.data import PADDING, crop_and_flip
from studies.optimizers import ADAM, ANTI_PGD, IVON, M_RWP, MSAM, NVRM_ADAM, NVRM_SGD, OPTIMIZERS, SAM
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
        optimizers.step(name, optimizer, loss_of, lambda i, parts: loss_of())
    noisy = network.weight.detach().clone()
    with optimizers.clean_weights(optimizer):
        clean = network.weight.detach().clone()
        assert loss_of().item() < first - 0.1
    assert torch.equal(noisy, clean) != (name in (NVRM_SGD, NVRM_ADAM, ANTI_PGD, M_RWP, MSAM))
    kept = {ADAM: 8, NVRM_ADAM: 8, IVON: 8}.get(name, 4)
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


def test_m_rwp_has_noise_in_one_half_of_a_batch():
    weight = nn.Parameter(torch.zeros(1000))
    model = nn.Module()
    model.weight = weight
    settings = TrainingSettings(lr=1e-9, momentum=0.0, weight_decay=0.0, variability=0.1)
    optimizer = optimizers.make_optimizer(M_RWP, model, settings, 0)
    seen = []

    def loss_of_part(i, parts):
        seen.append((i, parts, weight.detach().std().item()))
        return weight.sum() * (i + 1)

    for _ in range(2):
        optimizers.step(M_RWP, optimizer, None, loss_of_part)
        assert torch.equal(weight.grad, torch.full_like(weight, 1.5))
    assert [each[:2] for each in seen] == [(0, 2), (1, 2)] * 2
    assert seen[2][2] == pytest.approx(0.1, rel=0.1) and seen[3][2] < 1e-6  # five standard errors: 0.11
    with pytest.raises(StudyError, match="this study has none"):
        optimizers.step(M_RWP, optimizer, None)


def test_anti_pgd_moves_every_weight_by_b_and_msam_all_together_by_rho():
    settings = TrainingSettings(lr=1e-9, momentum=0.9, weight_decay=0.0, variability=0.25, msam_rho=2.0)
    for name in (ANTI_PGD, MSAM):
        network = nn.Linear(30, 40)
        before = nn.utils.parameters_to_vector(network.parameters()).detach()
        optimizer = optimizers.make_optimizer(name, network, settings, 0)
        optimizers.step(name, optimizer, lambda network=network: network(torch.ones(30)).sum())
        moved = (nn.utils.parameters_to_vector(network.parameters()) - before).detach()
        if name == ANTI_PGD:
            torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.25))
        else:
            assert moved.norm().item() == pytest.approx(2.0, rel=1e-5)


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
