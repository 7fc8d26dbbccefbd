"""Weight noise on LoRA adapters, around an optimizer of torch's, and adapters that are merged without it.

A frozen network is fine-tuned to another task by low-rank updates (Hu et al. 2021). Trainers that add noise to the
adapters themselves leave it in what they save; here it is off whenever the adapters are merged.

python examples/with_lora.py
"""

import argparse
import copy

import torch
from spirals import accuracy, network, spirals
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from nvrm_fast import WeightNoise


class LoRA(nn.Module):
    """A frozen dense layer and its low-rank update, x W^T + x A^T B^T."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.lora_a.t() @ self.lora_b.t()

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        layer = copy.deepcopy(self.base)
        layer.weight += self.lora_b @ self.lora_a
        return layer


def with_adapters(model: nn.Sequential, rank: int = 8) -> nn.Sequential:
    return nn.Sequential(*(LoRA(layer, rank) if isinstance(layer, nn.Linear) else layer for layer in model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    base = network()
    pretrain = torch.optim.Adam(base.parameters(), lr=0.01)
    for _ in range(epochs):
        for points, label in DataLoader(spirals(2000, seed=1), batch_size=64):
            pretrain.zero_grad()
            cross_entropy(base(points), label).backward()
            pretrain.step()

    # The new task: the same spirals, turned by a quarter.
    def turned(points: torch.Tensor) -> torch.Tensor:
        return torch.stack([-points[:, 1], points[:, 0]], 1)

    model = with_adapters(base)
    adapters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = WeightNoise(torch.optim.RMSprop(adapters, lr=0.01), variability=0.02, master_weights=True)
    for _ in range(epochs):
        for points, label in DataLoader(spirals(2000, seed=2), batch_size=64):
            optimizer.zero_grad()
            cross_entropy(model(turned(points)), label).backward()
            optimizer.step()

    test = spirals(1000, seed=3)
    test.tensors = turned(test.tensors[0]), test.tensors[1]
    noisy = nn.Sequential(*(layer.merged() if isinstance(layer, LoRA) else layer for layer in model))
    with optimizer.denoised():
        clean = nn.Sequential(*(layer.merged() if isinstance(layer, LoRA) else layer for layer in model))
    print(f"before fine-tuning: {accuracy(base, test):.3f}")
    print(f"merged as the training left it, with the noise: {accuracy(noisy, test):.3f}")
    print(f"merged inside denoised(): accuracy on clean weights {accuracy(clean, test):.3f}")


if __name__ == "__main__":
    main()
