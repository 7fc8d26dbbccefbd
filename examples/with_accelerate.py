"""Hugging Face Accelerate: evaluation on clean weights through its wrappers, and exact states.

python examples/with_accelerate.py
"""

import argparse
from contextlib import nullcontext
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from spirals import network, right, spirals
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from nvrm_fast import NVRMAdamW
from nvrm_fast.integrations.accelerate import denoised, load_state, save_state
from nvrm_fast.optim import VariabilityScheduler


def train(accelerator, model, optimizer, schedule, batches, epochs: range) -> None:
    for _ in epochs:
        for points, label in batches:
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(points), label))  # at weights + noise
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()


@torch.no_grad()
def evaluate(accelerator, model, optimizer, test) -> float:
    with denoised(optimizer):
        scores = [accelerator.gather_for_metrics(right(model(points), label)) for points, label in test]
    return torch.cat(scores).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--folder", help="for checkpoints; several processes need one that they share")
    arguments = parser.parse_args()
    epochs = arguments.epochs
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = network()
    optimizer = NVRMAdamW(model.named_parameters(), lr=0.01, variability=0.05)
    schedule = VariabilityScheduler(optimizer, lambda step: max(0.0, 1 - step / (16 * epochs)))
    batches = DataLoader(spirals(2000, seed=1), batch_size=64)
    test = DataLoader(spirals(1000, seed=2), batch_size=250)
    model, optimizer, schedule, batches, test = accelerator.prepare(model, optimizer, schedule, batches, test)

    with nullcontext(arguments.folder) if arguments.folder else TemporaryDirectory() as folder:
        train(accelerator, model, optimizer, schedule, batches, range(epochs // 2))
        print(f"halfway: {evaluate(accelerator, model, optimizer, test):.3f}")
        save_state(accelerator, folder)  # clean weights in model.safetensors, the noise's record in optimizer.bin
        ends = []
        for _ in range(2):  # go on, then go back and do it again
            train(accelerator, model, optimizer, schedule, batches, range(epochs // 2, epochs))
            ends.append([p.detach().clone() for p in model.parameters()])
            score = evaluate(accelerator, model, optimizer, test)
            load_state(accelerator, folder)
    equal = all(torch.equal(p, q) for p, q in zip(*ends))
    print(f"resumed run equal to the uninterrupted one, bit for bit: {equal}")
    print(f"accuracy on clean weights {score:.3f}")


if __name__ == "__main__":
    main()
