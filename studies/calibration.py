"""How far confidence and accuracy are apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_IMAGES_A_PASS = 500


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float | None:
    """The mean over examples of |accuracy - confidence| of their bin (Guo et al., 2017, equation 3).

    Args:
        probabilities: (N, classes); the largest is the confidence.
        labels: (N,) int64.
        bins: of equal width on (0, 1], each without its lower end.

    Returns a fraction, or None where probabilities are not finite.
    """
    confidence, predicted = probabilities.double().max(1)
    if not bool(confidence.isfinite().all()):
        return None
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    above = (predicted == labels).double() - confidence
    return float(
        torch.zeros(bins, dtype=torch.float64, device=place.device).index_add_(0, place, above).abs().sum()
    ) / len(labels)


@torch.no_grad()
def of_network(network: nn.Module, images: Tensor, labels: Tensor) -> float | None:
    """``expected_calibration_error`` of a network whose outputs are logits; it is in training mode afterwards."""
    network.eval()
    probabilities = torch.cat([network(part).softmax(1) for part in images.split(_IMAGES_A_PASS)])
    network.train()
    return expected_calibration_error(probabilities, labels)
