"""What an ensemble of networks says: mean probabilities, their entropy, and how far its members disagree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Prediction(NamedTuple):
    """Of an ensemble, for each example. probabilities: their mean, of the logits' shape. entropy: of that mean, in
    nats, without the dimension of the classes. mutual_information: between class and weights, the part of the entropy
    that the samples disagree about."""

    probabilities: Tensor
    entropy: Tensor
    mutual_information: Tensor


def prediction(logits: Tensor, *, class_dim: int | None = None) -> Prediction:
    """Prediction from logits (samples, batch, classes), in at least float32.

    class_dim: the dimension of the classes in one sample's logits, such as 1 for (batch, classes, height, width) or -1
    for (batch, positions, classes). By default logits are (samples, batch, classes), and others are refused.

    Raises ValueError for logits of other dimensions without a class_dim, and for a single class.
    """
    if class_dim is None:
        if logits.dim() != 3:
            raise ValueError(
                f"one sample's logits have shape {list(logits.shape[1:])}, not (batch, classes): say class_dim, the "
                "dimension of the classes"
            )
        class_dim = 1
    outputs = logits.dim() - 1
    if not -outputs <= class_dim < outputs:
        raise ValueError(
            f"class_dim must be a dimension of one sample's logits, {list(logits.shape[1:])}; got {class_dim}"
        )
    dim = 1 + class_dim % outputs
    if logits.shape[dim] < 2:
        raise ValueError(
            f"class_dim has {logits.shape[dim]} class: an ensemble needs two logits or more; for one logit of a binary "
            "model give prediction(torch.stack([torch.zeros_like(z), z], -1)) of z without that dimension"
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probabilities = torch.log_softmax(logits.to(dtype), dim=dim)
    probabilities = log_probabilities.exp()
    mean = probabilities.mean(dim=0)
    entropy = torch.special.entr(mean).sum(dim=dim - 1)
    expected = torch.special.entr(probabilities).sum(dim=dim).mean(dim=0)
    return Prediction(mean, entropy, (entropy - expected).clamp_min(0))
