"""Augmentation of whole batches by tensor operations, on any device (NVRM paper, appendix C.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

PADDING = 4


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image padded with 4 zeros on every side, cut back to its size at a random place, mirrored with chance 1/2.

    Args:
        images: (N, channels, height, width), standardized, so that zero is the mean.
        generator: on the CPU; the only source of randomness.

    Returns:
        Images of the same shape; every one has its own place and its own mirroring.
    """
    count, _, height, width = images.shape
    top, left = torch.randint(0, 2 * PADDING + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    across = torch.arange(width)
    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored, across.flip(0), across)
    places = torch.arange(count)[:, None, None]
    index = tuple(part.to(images.device) for part in (places, rows[:, :, None], columns[:, None, :]))
    padded = pad(images, [PADDING] * 4).permute(0, 2, 3, 1)  # channels last: one gather moves whole pixels
    return padded[index].permute(0, 3, 1, 2)


AUGMENTATIONS = {"none": None, "crop-flip": crop_and_flip}
