"""`python -m bench.gpu_layers`: DirectionLinear(4096, 4096), batch 4096, bfloat16, against weight-normalized linear.

Forward and backward, GPU time by CUDA events. Every row is written as soon as it is measured (gpu_results.py).
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from nvrm_fast import nn as noisy

from .gpu_measure import DEVICE, REHEARSAL, host_seconds, seconds_on_the_gpu, times
from .gpu_results import Results
from .layer_contestants import BASELINE, EagerComposite, clear, run

SIZE = 32 if REHEARSAL else 4096
TITLE = "linear, 4096 to 4096, batch 4096, bfloat16"


def layers() -> dict[str, tuple[str | None, Callable[[], nn.Module]]]:
    """Name: whose tests speak for it, and what makes it."""

    def linear() -> nn.Module:
        return nn.Linear(SIZE, SIZE, device=DEVICE, dtype=torch.bfloat16)

    def direction(**noise) -> tuple[str, Callable[[], nn.Module]]:
        return "layers", lambda: noisy.noisy_layer(linear(), "direction", **noise)

    return {
        BASELINE: (None, lambda: weight_norm(linear())),
        "plain, torch": (None, linear),
        "projected": direction(direction=noisy.Projected(0.01)),
        "magnitude normal": direction(magnitude=noisy.NormalMagnitude(0.01)),
        "tangent": direction(direction=noisy.Tangent(0.01)),
        "rotation": direction(direction=noisy.Rotation(0.3)),
        "rotation, Beta": direction(direction=noisy.BetaRotation(2.0)),
        "von Mises-Fisher": direction(direction=noisy.VonMisesFisher(1000.0)),
        "composite in eager torch": (None, lambda: EagerComposite(linear())),
    }


def measure(make: Callable[[], nn.Module]) -> dict[str, float]:
    layer = make()
    x = torch.randn(SIZE, SIZE, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(SIZE, SIZE, device=DEVICE, dtype=torch.bfloat16)

    def once() -> None:
        clear(layer, x)
        run(layer, x, gradient)

    once()  # compiles
    return times(seconds_on_the_gpu([once], host_seconds(once)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_layers", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="the JSON file of this GPU; the .md goes beside it")
    parser.add_argument("--seconds", type=float, default=600, help="begin no further row after this long")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    results = Results(options.results)
    for name, (tested_by, make) in layers().items():
        if time.monotonic() - began > options.seconds:
            print(f"time was up before {name}")
            break
        try:
            figures = measure(make)
        except Exception as error:  # one row that fails is a row that says so; the others are still wanted
            figures = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
        results.add("layers", TITLE, name, tested_by, figures, is_baseline=name == BASELINE)
        gc.collect()
        if not REHEARSAL:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
