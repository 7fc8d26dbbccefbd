"""What noise relative to the weights costs a step, beside the same step with an absolute scale.

python -m bench.relative [ROUNDS]

25 million float32 weights in place, one tensor of 5,000 rows, side by side. Aims: at most 1.15 of the absolute scale's
time with one measure a tensor, 1.25 with one a row.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from .contestants import RULES, VARIABILITY
from .measure import Entrant, Rounds, paired_ratio, quartiles, round_robin
from .parameter_lists import Shape, copy_parameters, make_gradients, make_parameters

SHAPE: Shape = (5000, 5000)
ABSOLUTE = "absolute"
#: Row of the table -> options.
OPTIONS: dict[str, dict[str, Any]] = {
    ABSOLUTE: {},
    "rms, tensor": dict(relative="rms"),
    "rms, row": dict(relative="rms", per="row"),
    "absmax, tensor": dict(relative="absmax"),
    "absmax, row": dict(relative="absmax", per="row"),
}
AIMS = {"tensor": 1.15, "row": 1.25}


def measure(rule: str, rounds: int, shape: Shape = SHAPE) -> Rounds:
    """Times of a step of each row of OPTIONS, each on parameters of its own."""
    start = make_parameters([shape], torch.float32)
    gradients = make_gradients(start)
    entrants = {}
    for name, options in OPTIONS.items():
        params = copy_parameters(start, gradients)
        optimizer = RULES[rule].nvrm(
            params, **RULES[rule].options, variability=VARIABILITY, master_weights=False, seed=0, **options
        )
        entrants[name] = Entrant(lambda: None, optimizer.step)
    return round_robin(entrants, rounds)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    for rule in RULES:
        found = measure(rule, rounds).seconds
        print(f"NVRM-{rule}, {torch.get_num_threads()} threads, {rounds} rounds")
        for name, seconds in found.items():
            ratio = paired_ratio(seconds, found[ABSOLUTE])
            aim = "" if name == ABSOLUTE else f"   aim {AIMS[name.split(', ')[1]]}"
            print(f"  {name:16} {1e3 * quartiles(seconds).median:8.2f} ms   {ratio.median:.3f} of absolute{aim}")


if __name__ == "__main__":
    main()
