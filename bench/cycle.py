"""What one draw for four steps (draws="cycle") spares, beside a draw a step and torch's fused step without noise.

python -m bench.cycle [ROUNDS]

25 million float32 weights in one tensor, on one thread and on two, every vector instruction set, side by side. What is
timed is four steps, a whole cycle: three of them make no new draw. Aims, for Adam in place: at most 1.75 of torch's
fused step with AVX2 on one thread, 1.1 with AVX-512 on two.
"""

from __future__ import annotations

import sys

import torch

from .contention import describe, waiting_share
from .contestants import FUSED, RULES, VARIABILITY, make_optimizer
from .gate import check_all
from .machine import benchmarked_instruction_sets, instruction_set_restored, machine_facts, use_instruction_set
from .measure import Entrant, Rounds, paired_ratio, quartiles, round_robin
from .parameter_lists import Shape, copy_parameters, make_gradients, make_parameters

SHAPE: Shape = (25_000_000,)
STEPS = 4
THREADS = (1, 2)
BASELINE = "torch fused, no noise"
#: Row of the table -> options; each row for every instruction set.
OPTIONS = {
    "in place": dict(master_weights=False, draws="independent"),
    "in place, cycle": dict(master_weights=False, draws="cycle"),
    "master weights": dict(master_weights=True, draws="independent"),
}
#: Rule, row, instruction set and threads -> at most so many times the baseline.
AIMS = {("Adam", "in place, cycle", "avx2", 1): 1.75, ("Adam", "in place, cycle", "avx512", 2): 1.1}


def measure(rule: str, rounds: int, shape: Shape = SHAPE) -> Rounds:
    """Times of STEPS steps of torch's fused optimizer and of each row of OPTIONS with each instruction set. Rows have
    parameters of their own."""
    start = make_parameters([shape])
    gradients = make_gradients(start)

    def repeated(optimizer: torch.optim.Optimizer):
        def run() -> None:
            for _ in range(STEPS):
                optimizer.step()

        return run

    entrants = {
        BASELINE: Entrant(lambda: None, repeated(make_optimizer(rule, FUSED, copy_parameters(start, gradients))))
    }
    for name, options in OPTIONS.items():
        optimizer = RULES[rule].nvrm(
            copy_parameters(start, gradients), **RULES[rule].options, variability=VARIABILITY, seed=0, **options
        )
        for instruction_set in benchmarked_instruction_sets():
            entrants[f"{name}, {instruction_set}"] = Entrant(
                lambda instruction_set=instruction_set: use_instruction_set(instruction_set), repeated(optimizer)
            )  # fmt: skip
    with instruction_set_restored():
        return round_robin(entrants, rounds)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    print(check_all())
    for key, fact in machine_facts().items():
        print(f"{key}: {fact}")
    for threads in THREADS:
        torch.set_num_threads(threads)
        for rule in RULES:
            seconds, waiting = measure(rule, rounds)
            print(f"\nNVRM{rule}, {threads} threads, {rounds} rounds. {describe(waiting_share(waiting))}")
            for name, times in seconds.items():
                ratio = paired_ratio(times, seconds[BASELINE])
                aim = AIMS.get((rule, *name.rsplit(", ", 1), threads))
                print(
                    f"  {name:24} {1e3 / STEPS * quartiles(times).median:7.2f} ms a step   {ratio.median:.3f} "
                    f"({ratio.low:.3f} to {ratio.high:.3f}) of torch's fused{f'   aim {aim}' if aim else ''}"
                )


if __name__ == "__main__":
    main()
