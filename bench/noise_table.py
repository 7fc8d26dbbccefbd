"""The table of the noise alone: a fill of a tensor that exists, against torch's own generators."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch

from nvrm_fast.contract.distributions import DISTRIBUTIONS, distribution_code
from nvrm_fast.ops.step import fill_noise_

from .contention import waiting_share
from .machine import benchmarked_instruction_sets, instruction_set_restored, use_instruction_set
from .measure import Entrant, paired_ratio, quartiles, round_robin
from .step_table import COPY, copy_bandwidth, copy_entrant

ELEMENTS = 25_000_000  # the title below says so too
SEED, STREAM, STEP, SCALE, OFFSET = 1, 2, 3, 0.01, 0


def torch_contestants(target: torch.Tensor) -> dict[str, tuple[str, Entrant]]:
    """What torch offers for each distribution. The Laplace sample has no way to write into a tensor that exists."""
    laplace = torch.distributions.Laplace(0.0, SCALE)

    def signs() -> None:
        target.bernoulli_(0.5).sub_(0.5).mul_(2 * SCALE)

    return {
        "gaussian": ("tensor.normal_", Entrant(lambda: None, partial(target.normal_, 0, SCALE))),
        "uniform": ("tensor.uniform_", Entrant(lambda: None, partial(target.uniform_, -SCALE, SCALE))),
        "laplace": ("distributions.Laplace.sample", Entrant(lambda: None, partial(laplace.sample, target.shape))),
        "rademacher": ("tensor.bernoulli_, sub_, mul_", Entrant(lambda: None, signs)),
    }


def measure(rounds: int, threads: int) -> list[dict[str, Any]]:
    return [measure_noise(rounds)]


def measure_noise(rounds: int) -> dict[str, Any]:
    """The table as plain data: seconds and bytes a second; every time of every round is kept."""
    target = torch.zeros(ELEMENTS)
    theirs = torch_contestants(target)
    entrants = {name: entrant for name, entrant in theirs.values()}
    rows = [(distribution, theirs[distribution][0]) for distribution in DISTRIBUTIONS]
    for distribution in DISTRIBUTIONS:
        for instruction_set in benchmarked_instruction_sets():
            name = f"fill_noise_, {distribution}, {instruction_set}"
            code = distribution_code(distribution)
            fill = partial(fill_noise_, target, SEED, STREAM, STEP, code, SCALE, OFFSET, backend="native")
            entrants[name] = Entrant(partial(use_instruction_set, instruction_set), fill)
            rows.append((distribution, name))
    with instruction_set_restored():
        seconds, waiting = round_robin({**entrants, COPY: copy_entrant()}, rounds)

    entries = []
    for distribution, name in sorted(rows, key=lambda row: list(DISTRIBUTIONS).index(row[0])):
        median = statistics.median(seconds[name])
        entries.append(
            {
                "distribution": distribution,
                "contestant": name,
                "seconds": quartiles(seconds[name])._asdict(),
                "ns an element": median * 1e9 / ELEMENTS,
                "ratio": paired_ratio(seconds[name], seconds[theirs[distribution][0]])._asdict(),
                "bytes a second": 4 * ELEMENTS / median,
                "all seconds": seconds[name],
            }
        )
    return {
        "title": "Noise alone, 25 000 000 float32 elements",
        "elements": ELEMENTS,
        "waiting": waiting_share(waiting),
        "copy bytes a second": copy_bandwidth(seconds[COPY]),
        "rows": entries,
    }
