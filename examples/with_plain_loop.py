"""A plain training loop: schedules, evaluation on clean weights, a checkpoint, and going on from it bit for bit.

python examples/with_plain_loop.py
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from spirals import accuracy, network, spirals
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from nvrm_fast import NVRMAdamW
from nvrm_fast.optim import VariabilityScheduler


def make(epochs: int):
    model = network()
    optimizer = NVRMAdamW(model.named_parameters(), lr=0.01, variability=0.05)
    schedulers = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        VariabilityScheduler(optimizer, lambda epoch: 1 - epoch / epochs),
    ]
    return model, optimizer, schedulers


def train(run, epochs: range, data, test, path: Path | None = None) -> None:
    model, optimizer, schedulers = run
    for epoch in epochs:
        for points, label in DataLoader(data, batch_size=64):
            optimizer.zero_grad()
            cross_entropy(model(points), label).backward()  # at weights + noise
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        noisy = accuracy(model, test)  # the trap: what nobody wants to know
        with optimizer.denoised():  # clean weights, and afterwards the same noisy ones again
            print(f"epoch {epoch + 1:2d}: on clean weights {accuracy(model, test):.3f}, on noisy ones {noisy:.3f}")
            if path is not None:
                torch.save([part.state_dict() for part in (model, optimizer, *schedulers)], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=16)
    epochs = parser.parse_args().epochs
    data, test = spirals(2000, seed=1), spirals(1000, seed=2)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        run = make(epochs)
        train(run, range(epochs // 2), data, test, path)
        train(run, range(epochs // 2, epochs), data, test)

        # Another process would do this: load everything, then put the noise on.
        again = make(epochs)
        model, optimizer, schedulers = again
        for part, state in zip((model, optimizer, *schedulers), torch.load(path)):
            part.load_state_dict(state)
        optimizer.train()
        train(again, range(epochs // 2, epochs), data, test)

    for optimizer in (run[1], again[1]):
        optimizer.denoise()  # done: the weights stay clean
    equal = all(torch.equal(p, q) for p, q in zip(run[0].parameters(), again[0].parameters()))
    print(f"resumed run equal to the uninterrupted one, bit for bit: {equal}")
    print(f"accuracy on clean weights {accuracy(run[0], test):.3f}")


if __name__ == "__main__":
    main()
