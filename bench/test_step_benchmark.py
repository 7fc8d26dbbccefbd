"""pytest-benchmark's view of the step: one entry for each contestant, for comparison over time (--benchmark-compare).

Contestants run one after another here, so that a busy moment of a shared machine falls on one of them only: ratios are
taken from `python -m bench.report`, which runs them side by side.
"""

from __future__ import annotations

import pytest
import torch

from .contestants import RULES, Contestant, bytes_per_element, contestants, make_optimizer
from .machine import use_instruction_set
from .parameter_lists import PARAMETER_LISTS, copy_parameters, element_count, make_gradients, make_parameters

ROUNDS = 7
CASES = [
    pytest.param(list_name, contestant, id=f"{list_name}-{contestant.name}")
    for list_name in PARAMETER_LISTS
    for rule in RULES
    for contestant in contestants(rule)
]


@pytest.fixture(scope="module")
def tensors():
    """Initial parameters and gradients of each list, drawn once."""
    starts = {name: make_parameters(shapes) for name, shapes in PARAMETER_LISTS.items()}
    return {name: (params, make_gradients(params)) for name, params in starts.items()}


@pytest.mark.parametrize("list_name, contestant", CASES)
def test_step(benchmark, tensors, list_name: str, contestant: Contestant) -> None:
    params = copy_parameters(*tensors[list_name])
    optimizer = make_optimizer(contestant.rule, contestant.variant, params)
    benchmark.group = f"{contestant.rule}, {list_name}, {torch.get_num_threads()} threads"
    benchmark.extra_info["elements"] = element_count(PARAMETER_LISTS[list_name])
    benchmark.extra_info["bytes an element"] = bytes_per_element(contestant.rule, contestant.variant)
    benchmark.pedantic(
        optimizer.step,
        setup=lambda: use_instruction_set(contestant.instruction_set),
        rounds=ROUNDS,
        warmup_rounds=2,
        iterations=1,
    )
