"""How the checkpoints beside this file were made: `python make.py NAME`, once, with the release that NAME says.

Never again with a later one: they are there to show that what users have saved keeps loading. The noise is on.
"""

import copy
import sys
from pathlib import Path

import torch

from nvrm_fast import NVRMSGD, NVRMAdamW, PerturbedSGD

CLASSES = {
    "sgd": (NVRMSGD, dict(lr=0.1, momentum=0.9, variability=0.05, noise="laplace", seed=7)),
    "adamw": (NVRMAdamW, dict(variability=0.02, amsgrad=True)),
    "adamw masters": (NVRMAdamW, dict(variability=0.02, master_weights=True)),
    "perturbed": (PerturbedSGD, dict(lr=0.1, momentum=0.9, variability=0.05)),
    "cycle": (NVRMSGD, dict(lr=0.1, momentum=0.9, variability=0.05, draws="cycle", seed=7)),  # from version 3 on
    "relative": (NVRMSGD, dict(lr=0.1, momentum=0.9, variability=0.1, relative="rms", seed=7)),  # so is this
}


def parameters(kind: str) -> list[torch.nn.Parameter]:
    dtype = torch.bfloat16 if kind == "adamw masters" else torch.float32
    return [torch.nn.Parameter(torch.linspace(-1, 1, n).to(dtype)) for n in (130, 7)]


def steps(params: list[torch.nn.Parameter], optimizer, span: range) -> None:
    for i in span:
        for p in params:
            p.grad = torch.sin(torch.arange(p.numel(), dtype=torch.float32) + i).to(p.dtype)
        optimizer.step()


def main() -> None:
    saved = {}
    for kind, (cls, options) in CLASSES.items():
        params = parameters(kind)
        optimizer = cls(params, **options)
        steps(params, optimizer, range(3))
        saved[kind] = {
            "params": [p.detach().clone() for p in params],
            "optimizer": copy.deepcopy(optimizer.state_dict()),
        }
        steps(params, optimizer, range(3, 6))
        saved[kind]["three steps later"] = [p.detach().clone() for p in params]
    torch.save(saved, Path(__file__).with_name(sys.argv[1] + ".pt"))


if __name__ == "__main__":
    main()
