"""A small model with what trips optimizers up: a channels-last convolution, a norm, a scalar, an unused parameter."""

from __future__ import annotations

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
        self.norm = nn.GroupNorm(1, 5)
        self.linear = nn.Linear(5 * 16, 7)
        self.unused = nn.Parameter(torch.ones(4))
        self.scalar = nn.Parameter(torch.ones(()))
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
        self.to(dtype)

    def forward(self, x):
        return self.linear(self.norm(self.conv(x)).relu().flatten(1)) * self.scalar


def loss_of(model: nn.Module, i: int) -> torch.Tensor:
    """The loss of mini-batch i, always the same."""
    generator = torch.Generator().manual_seed(100 + i)
    x = torch.randn(8, 3, 6, 6, generator=generator).to(next(model.parameters()).dtype)
    y = torch.randint(0, 7, (8,), generator=generator)
    return nn.functional.cross_entropy(model(x), y)


def train(model: nn.Module, optimizer, steps: int, start: int = 0) -> None:
    for i in range(start, start + steps):
        optimizer.zero_grad()
        loss_of(model, i).backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)
