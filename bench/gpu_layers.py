"""`python -m bench.gpu_layers`: DirectionLinear(4096, 4096), batch 4096, bfloat16, against weight-normalised linear.

Forward and backward, GPU time by CUDA events, in rounds of shuffled order. Not yet run on a GPU: written without one.
"""

from __future__ import annotations

import random
import statistics

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from nvrm_fast import nn as noisy
from nvrm_fast.ops.direction import default_backend

from .layer_contestants import clear, run
from .markdown import table
from .measure import paired_ratio

SIZE, ROUNDS, WARM_UP, REPEATS = 4096, 21, 3, 10
BASELINE = "weight-normalised, torch"


def make_layers() -> dict[str, nn.Module]:
    plain = lambda: nn.Linear(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    directions = {
        "magnitude normal": dict(magnitude=noisy.NormalMagnitude(0.01)),
        "projected": dict(direction=noisy.Projected(0.01)),
        "tangent": dict(direction=noisy.Tangent(0.01)),
        "rotation": dict(direction=noisy.Rotation(0.3)),
        "rotation, Beta": dict(direction=noisy.BetaRotation(2.0)),
        "von Mises-Fisher": dict(direction=noisy.VonMisesFisher(1000.0)),
    }
    layers = {BASELINE: weight_norm(plain()), "plain, torch": plain()}
    return layers | {name: noisy.noisy_layer(plain(), "direction", **noise) for name, noise in directions.items()}


def milliseconds(layer: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(REPEATS):
        clear(layer, x)
        run(layer, x, gradient)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / REPEATS


def main() -> None:
    layers = make_layers()
    x = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
    times: dict[str, list[float]] = {name: [] for name in layers}
    order = list(layers)
    for i in range(WARM_UP + ROUNDS):
        random.Random(i).shuffle(order)
        for name in order:
            elapsed = milliseconds(layers[name], x, gradient)
            if i >= WARM_UP:
                times[name].append(elapsed)
    rows = []
    for name, values in times.items():
        quartiles = paired_ratio(values, times[BASELINE])
        rows.append([name, f"{statistics.median(values):.3f}", f"{quartiles.median:.2f}"])
    print(f"{torch.cuda.get_device_name()}, kernels: {default_backend(torch.device('cuda'))}\n")
    print(table(["layer", "ms", "to weight-normalised"], rows))


if __name__ == "__main__":
    main()
