"""Wrong labels as people make them: a picture gets the identity of the one that looks most like it (SE-SNN, section
4.3, "Noise Generation")."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS_A_PASS = 512  # bounds the distances held at once


def most_similar_other(features: Tensor, labels: Tensor) -> Tensor:
    """For each picture the nearest one, by Euclidean distance of features, that has a different identity.

    Args:
        features: (N, K), floating-point, of a network trained on right labels.
        labels: (N,) int64 on the same device, of at least two identities.

    Returns:
        (N,) int64 on the CPU: places of pictures.
    """
    nearest = []
    for part, own in zip(features.split(_ROWS_A_PASS), labels.split(_ROWS_A_PASS)):
        distances = torch.cdist(part, features)
        distances[own[:, None] == labels] = torch.inf
        nearest.append(distances.argmin(1).cpu())
    return torch.cat(nearest)


def flip_to_similar(labels: Tensor, similar: Tensor, strength: float, seed: int) -> tuple[Tensor, Tensor]:
    """Given labels, (N,) int64, and which of them are wrong, (N,) bool.

    round(strength N) pictures, drawn by the seed, get the label of the picture at ``similar``, (N,) int64. At one seed
    the pictures of a smaller strength are among those of a larger one.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    flipped = torch.zeros(len(labels), dtype=torch.bool)
    flipped[order[: round(strength * len(labels))]] = True
    return torch.where(flipped, labels[similar], labels), flipped
