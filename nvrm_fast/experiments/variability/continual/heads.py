"""The network of the continual studies: two hidden layers that all tasks share, and output layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HeadedNetwork(nn.Module):
    """Fully connected, two hidden layers of ``width`` ReLUs (NVRM paper, appendix C.2: 1024), one head or several."""

    def __init__(self, inputs: int, width: int, classes: int, heads: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(heads))

    def forward(self, images: Tensor, head: int) -> Tensor:
        """Logits (N, classes) of images (N, inputs) by one head."""
        return self.heads[head](self.body(images))

    def parameters_of(self, head: int) -> list[nn.Parameter]:
        """What a task with this head trains: the body and that head. The other heads are frozen."""
        return [*self.body.parameters(), *self.heads[head].parameters()]


def build(inputs: int, width: int, classes: int, heads: int, *, seed: int) -> HeadedNetwork:
    """A network on the CPU in torch's default initialisation, which depends on the seed only; torch's global generator
    is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return HeadedNetwork(inputs, width, classes, heads)
