"""Expected calibration error: by hand, and against torchmetrics."""

import pytest
import torch
from torch import nn

from studies.fit import calibration_error, expected_calibration_error


def test_by_hand():
    """Two bins: confidences 0.5 (one right of two) and 0.9, 0.8 (both wrong)."""
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.25, 0.25], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]])
    labels = torch.tensor([0, 1, 2, 2])
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx((2 * 0.0 + 1.7) / 4)
    assert expected_calibration_error(torch.eye(3), torch.arange(3)) == 0
    assert expected_calibration_error(torch.full((2, 2), float("nan")), torch.tensor([0, 1])) is None


def test_it_is_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    probabilities = (3 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0))).softmax(1)
    labels = torch.randint(10, (500,), generator=torch.Generator().manual_seed(1))
    theirs = metrics.multiclass_calibration_error(probabilities, labels, num_classes=10, n_bins=15, norm="l1")
    assert expected_calibration_error(probabilities, labels) == pytest.approx(float(theirs), abs=1e-6) and theirs > 0.1


def test_of_a_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    images, labels = torch.randn(1100, 4), torch.randint(3, (1100,))
    expected = expected_calibration_error(network[0](images).softmax(1), labels)
    assert calibration_error(network, images, labels) == pytest.approx(expected) and network.training
