"""Variational noise as speech recognizers use it: on the encoder's weights only, and not before a start step.

A small LSTM encoder with a CTC loss learns to read short sequences of "phones" from noisy frames.

python examples/with_speech_model.py
"""

import argparse

import torch
from torch import nn

from nvrm_fast import NVRMAdamW

PHONES, FRAMES, FEATURES = 5, 24, 12  # phone 0 is CTC's blank


class Recognizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(FEATURES, 48, num_layers=2, batch_first=True)
        self.norm = nn.LayerNorm(48)
        self.head = nn.Linear(48, PHONES)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.encoder(frames)[0])).log_softmax(-1)


def utterances(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (count, FRAMES, FEATURES) and the phones behind them (count, 4), each of which lasts six frames."""
    table = torch.randn(PHONES, FEATURES, generator=torch.Generator().manual_seed(0))
    phones = torch.randint(1, PHONES, (count, 4), generator=generator)
    frames = table[phones.repeat_interleave(FRAMES // 4, 1)]
    return frames + 0.7 * torch.randn(frames.shape, generator=generator), phones


def loss_of(model: nn.Module, frames: torch.Tensor, phones: torch.Tensor) -> torch.Tensor:
    count = len(frames)
    lengths = torch.full((count,), FRAMES), torch.full((count,), phones.shape[1])
    return nn.functional.ctc_loss(model(frames).transpose(0, 1), phones, *lengths, zero_infinity=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Recognizer()
    # Patterns choose by name, so the optimizer is given names. The norm, the head and all biases stay without noise.
    optimizer = NVRMAdamW(
        model.named_parameters(), lr=5e-3, variability=0.03, include="encoder.weight*", start_step=steps // 3
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, *utterances(64, generator))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if (step + 1) % (steps // 3) == 0:
            noise = "with noise" if optimizer.is_perturbed() else "without noise"
            print(f"step {step + 1:3d}: training loss {loss.item():.3f}, weights {noise}")
    print(optimizer.describe())
    frames, phones = utterances(256, generator)
    with optimizer.denoised(), torch.no_grad():
        best = model(frames).argmax(-1)  # the best phone of each frame; then repetitions and blanks are left out
        read = [[int(p) for p in torch.unique_consecutive(row) if p != 0] for row in best]
    repeated = [torch.unique_consecutive(row).tolist() for row in phones]  # CTC reads a phone that follows itself once
    right = sum(torch.unique_consecutive(torch.tensor(r)).tolist() == p for r, p in zip(read, repeated)) / len(read)
    print(f"sequences read: accuracy on clean weights {right:.3f}")


if __name__ == "__main__":
    main()
