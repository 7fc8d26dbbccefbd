"""The table of one noisy layer: time of forward and backward, and memory."""

from __future__ import annotations

import itertools
import multiprocessing
from functools import partial
from typing import Any

import torch

from nvrm_fast import nn as noisy
from nvrm_fast.ops import registry
from nvrm_fast.ops.noise import gaussian_like

from .contention import waiting_share
from .gate import RedGate
from .layer_contestants import BASELINE, CASES, COMPOSITE, clear, contestants, is_compiled, run
from .machine import benchmarked_instruction_sets, instruction_set_restored, use_instruction_set
from .measure import Entrant, paired_ratio, quartiles, round_robin
from .memory import _peak_resident_bytes, high_water, lower_peak

PASSES = 3


def check_layers() -> str:
    """Raises RedGate unless the activations of every law's kernel equal the reference bit for bit."""
    reason = registry.why_missing("direction_noise", "native", "cpu")
    if reason is not None:
        raise RedGate(f"there is nothing to time: {reason}")
    directions = [
        None, noisy.Projected(0.1), noisy.Tangent(0.1), noisy.Rotation(0.4), noisy.BetaRotation(0.7),
        noisy.VonMisesFisher(9.0),
    ]  # fmt: skip
    torch.manual_seed(0)
    # Whole vectors, pairs of them, tails and odd rows are all in it.
    shapes = {noisy.DirectionConv1d: ((3, 37, 2), (2, 3, 80)), noisy.DirectionLinear: ((9, 37), (7, 9))}
    with instruction_set_restored():
        for direction, (kind, (sizes, shape)) in itertools.product(directions, shapes.items()):
            layer = kind(*sizes, direction=direction, magnitude=noisy.GammaMagnitude(0.3))
            noisy.set_noise_mode(layer, "fixed", seed=1)
            x = torch.randn(shape)
            with registry.use_backend("reference"):
                expected = layer(x)
            for name in benchmarked_instruction_sets():
                use_instruction_set(name)
                if not torch.equal(layer(x), expected):
                    raise RedGate(f"{direction} on {name} differs from the reference")
    return f"gate green: activations of every law on {', '.join(benchmarked_instruction_sets())} equal the reference's"


def _build(case_name: str, name: str):
    torch.manual_seed(0)
    case = CASES[case_name]
    layer = contestants(case)[name]()
    if layer is None:
        return None
    x = torch.randn(case.shape, requires_grad=True)
    with torch.no_grad():
        gradient = torch.randn_like(layer(x))
    return layer, x, gradient


def _measure_peak(case_name: str, name: str, threads: int) -> int | None:
    """In a process of its own: by how much forward and backward raise the peak over parameters and input."""
    torch.set_num_threads(threads)
    small = torch.nn.Linear(256, 256)
    run(small, torch.randn(64, 256, requires_grad=True), torch.randn(64, 256))
    gaussian_like(torch.zeros(3), torch.tensor([1]))
    layer, x, gradient = _build(case_name, name)
    if is_compiled(name):
        # The compiler's own memory is not the layer's.
        run(layer, x, gradient)
        clear(layer, x)
        before = lower_peak()
        run(layer, x, gradient)
        return None if before is None else high_water() - before
    before = _peak_resident_bytes()
    for _ in range(PASSES):
        clear(layer, x)
        run(layer, x, gradient)
    return _peak_resident_bytes() - before


def kept_bytes(layer, x) -> int:
    """Bytes that a forward pass keeps for backward beyond the parameters and the input."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()} | {x.untyped_storage().data_ptr()}
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)  # alive until the count is done, so that no address is used twice
    count = sum(size for place, size in kept.items() if place not in own)
    del y
    return count


def measure(rounds: int, threads: int) -> list[dict[str, Any]]:
    return [measure_layers(case_name, rounds, threads) for case_name in CASES]


def measure_layers(case_name: str, rounds: int, threads: int) -> dict[str, Any]:
    """One table as plain data; every time of every round is kept."""
    case = CASES[case_name]
    built = {name: _build(case_name, name) for name in contestants(case)}
    built = {name: parts for name, parts in built.items() if parts is not None}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(1, maxtasksperchild=1) as pool:
        peaks = {name: pool.apply(_measure_peak, (case_name, name, threads)) for name in built}
    entrants = {
        name: Entrant(partial(clear, layer, x), partial(run, layer, x, gradient))
        for name, (layer, x, gradient) in built.items()
    }
    seconds, waiting = round_robin(entrants, rounds)
    rows = [
        {
            "contestant": name,
            "seconds": quartiles(seconds[name])._asdict(),
            "ratio": paired_ratio(seconds[name], seconds[BASELINE])._asdict(),
            "ratio to the composite": (
                paired_ratio(seconds[COMPOSITE], seconds[name])._asdict() if COMPOSITE in seconds else None
            ),
            "kept bytes": kept_bytes(*built[name][:2]),
            "peak bytes": peaks[name],
            "all seconds": seconds[name],
        }
        for name in built
    ]
    return {"title": f"{case.title}, float32", "waiting": waiting_share(waiting), "rows": rows}
