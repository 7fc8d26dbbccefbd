"""How times grow: with elements, with the number of tensors, with threads, with the batch and with the width."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from nvrm_fast import nn as noisy

from .contention import waiting_share
from .contestants import FUSED, IN_PLACE, MASTER, PUBLISHED, make_optimizer
from .layer_contestants import BASELINE, COMPOSITE, SIGMA, EagerComposite, clear, run
from .machine import usable_cores
from .measure import Entrant, paired_ratio, quartiles, round_robin
from .parameter_lists import Shape, copy_parameters, make_gradients, make_parameters

ELEMENTS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 25_000_000)
TENSORS, CUT = (1, 10, 100, 1_000, 10_000), 1_000_000
BATCHES, WIDTHS = (16, 64, 256, 1024), (128, 256, 512, 1024, 2048)
WIDTH, BATCH = 1024, 256
#: A time is of as many runs as take so long together: clocks and calls are not to be seen in it.
SHORTEST = 1e-3

RULE = "Adam"
OPTIMIZERS = {
    "torch.optim.Adam, fused": FUSED,
    "NVRMAdam, in place": IN_PLACE,
    "NVRMAdam, master weights": MASTER,
    "published NVRM-Adam, eager": PUBLISHED,
}
#: The published algorithm takes a quarter of a second on the largest list and a pass over 10 000 tensors; its curve
#: ends before.
PUBLISHED_UP_TO = {"elements": 1_000_000, "tensors": 1_000}


def thread_counts() -> list[int]:
    """Powers of two up to the cores that this process may use, and all of them."""
    cores = usable_cores()
    return sorted({1 << k for k in range(cores.bit_length()) if 1 << k <= cores} | {cores})


def repeated(entrant: Entrant) -> tuple[Entrant, int]:
    """The entrant, run as often as takes SHORTEST, and how often that is."""
    for _ in range(3):
        entrant.prepare()
        began = time.perf_counter()
        entrant.run()
        once = time.perf_counter() - began
    count = max(1, round(SHORTEST / once))

    def many() -> None:
        for i in range(count):
            if i:
                entrant.prepare()
            entrant.run()

    return Entrant(entrant.prepare, many), count


def points(at: int, entrants: dict[str, Entrant], rounds: int, per: int) -> tuple[list[dict[str, Any]], Sequence]:
    """One place of a curve, everybody side by side; per: what a value is divided by."""
    counted = {name: repeated(entrant) for name, entrant in entrants.items()}
    seconds, waiting = round_robin({name: entrant for name, (entrant, _) in counted.items()}, rounds)
    each = {name: [s / counted[name][1] for s in seconds[name]] for name in entrants}
    baseline = next(iter(entrants))
    rows = [
        {
            "at": at,
            "contestant": name,
            "value": quartiles([s / per for s in each[name]])._asdict(),
            "seconds": quartiles(each[name])._asdict(),
            "ratio": paired_ratio(each[name], each[baseline])._asdict(),
        }
        for name in entrants
    ]
    return rows, waiting


def curve(
    title: str, axis: str, unit: str, places: Iterable[int], make: Callable[[int], dict[str, Entrant]], rounds: int,
    per: Callable[[int], int] = lambda at: 1,
) -> dict[str, Any]:  # fmt: skip
    """A curve as plain data: what `make` builds at every place."""
    rows: list[dict[str, Any]] = []
    waits: list[float | None] = []
    for at in places:
        found, waiting = points(at, make(at), rounds, per(at))
        rows += found
        waits += waiting
    return {"title": title, "axis": axis, "unit": unit, "waiting": waiting_share(waits), "rows": rows}


def steps_of(shapes: list[Shape], names: Iterable[str]) -> dict[str, Entrant]:
    start = make_parameters(shapes)
    gradients = make_gradients(start)
    return {
        name: Entrant(lambda: None, make_optimizer(RULE, OPTIMIZERS[name], copy_parameters(start, gradients)).step)
        for name in names
    }


def _optimizers(axis: str, at: int) -> list[str]:
    return [name for name, kind in OPTIMIZERS.items() if kind != PUBLISHED or at <= PUBLISHED_UP_TO.get(axis, 0)]


def _layers(batch: int, width: int) -> dict[str, Entrant]:
    torch.manual_seed(0)
    plain = partial(nn.Linear, width, width)
    layers = {
        BASELINE: nn.utils.parametrizations.weight_norm(plain()),
        "rotation": noisy.noisy_layer(plain(), "direction", direction=noisy.Rotation(SIGMA)),
        COMPOSITE: EagerComposite(plain()),
        "nn.Linear, doubled width": nn.Linear(width, 2 * width),
        "StochasticLinear": noisy.StochasticLinear(width, width, activation="relu"),
    }
    x = torch.randn(batch, width, requires_grad=True)
    entrants = {}
    for name, layer in layers.items():
        with torch.no_grad():
            gradient = torch.randn_like(layer(x))
        entrants[name] = Entrant(partial(clear, layer, x), partial(run, layer, x, gradient))
    return entrants


def _on_threads(threads: int, entrants: dict[str, Entrant]) -> dict[str, Entrant]:
    """Parallel regions look at the number when they open: it is set before every run."""
    return {
        name: Entrant(lambda prepare=entrant.prepare: (torch.set_num_threads(threads), prepare()), entrant.run)
        for name, entrant in entrants.items()
    }


def _thread_curve(rounds: int, threads: int) -> dict[str, Any]:
    """The same optimizers on one thread after the other; afterwards torch uses `threads` again."""
    elements = ELEMENTS[-1]
    largest = steps_of([(elements,)], _optimizers("threads", elements))
    title = f"Adam, one tensor of {elements:_} elements".replace("_", " ")
    found = curve(title, "threads", "ms a step", thread_counts(), lambda at: _on_threads(at, largest), rounds)
    torch.set_num_threads(threads)
    return found


def measure(rounds: int, threads: int) -> list[dict[str, Any]]:
    """Every curve. threads: of all but the one over threads."""
    return [
        curve(
            "Adam, one tensor", "elements", "ns an element", ELEMENTS,
            lambda at: steps_of([(at,)], _optimizers("elements", at)), rounds, per=lambda at: at,
        ),
        curve(
            f"Adam, {CUT:_} elements in equal tensors".replace("_", " "), "tensors", "ms a step", TENSORS,
            lambda at: steps_of([(CUT // at,)] * at, _optimizers("tensors", at)), rounds,
        ),
        _thread_curve(rounds, threads),
        curve(
            f"Linear({WIDTH}, {WIDTH}), forward and backward", "batch", "ms", BATCHES,
            lambda at: _layers(at, WIDTH), rounds,
        ),
        curve(
            f"Linear(width, width), batch {BATCH}, forward and backward", "width", "ms", WIDTHS,
            lambda at: _layers(BATCH, at), rounds,
        ),
    ]  # fmt: skip
