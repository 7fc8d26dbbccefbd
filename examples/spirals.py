"""The data of the examples: two spirals in the plane, one a class. Nothing is downloaded."""

import math

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


def spirals(count: int, seed: int) -> TensorDataset:
    """`count` points (count, 2) float32 with labels (count,) int64 in {0, 1}."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (count,), generator=generator)
    turn = torch.rand(count, generator=generator) * 2.5 * math.pi
    angle = turn + math.pi * label
    radius = (turn + 1.0) / 3.0
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return TensorDataset(points + 0.12 * torch.randn(points.shape, generator=generator), label)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    points, label = data.tensors
    return right(model(points), label).mean().item()


def right(scores: Tensor, label: Tensor) -> Tensor:
    return (scores.argmax(1) == label).float()
