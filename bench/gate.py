"""The gate: no figure of a step that is wrong. Small lists, every kernel that is about to be timed, in seconds."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.optim import Optimizer

from nvrm_fast.contract.cycles import DRAWS
from nvrm_fast.contract.distributions import DISTRIBUTIONS, distribution_code
from nvrm_fast.ops import registry
from nvrm_fast.ops.step import fill_noise_

from .contestants import FOR_LOOP, RULES, VARIABILITY, make_optimizer
from .machine import benchmarked_instruction_sets, instruction_set_restored, use_instruction_set
from .parameter_lists import SMALL_LIST, copy_parameters, make_gradients, make_parameters

STEPS = 5  # noise in cycles: over the end of one
DTYPES = (torch.float32, torch.bfloat16)


class RedGate(Exception):
    """A contestant computes something else than it should; the message says which and where."""


def check_all() -> str:
    """Raises RedGate unless everything that will be timed is right; returns what was checked, in a sentence."""
    reason = registry.why_missing("step_", "native", "cpu")
    if reason is not None:
        raise RedGate(f"there is nothing to time: {reason}")
    instruction_sets = benchmarked_instruction_sets()
    with instruction_set_restored():
        for rule in RULES:
            _check_published(rule)
            for dtype, master, noise, draws in itertools.product(DTYPES, (False, True), DISTRIBUTIONS, DRAWS):
                _check_native(rule, dtype, master, noise, draws, instruction_sets)
        for noise, instruction_set in itertools.product(DISTRIBUTIONS, instruction_sets):
            _check_noise(noise, instruction_set)
    return (
        f"gate green: steps of {', '.join(RULES)}, in place and with master weights, in float32 and bfloat16, with "
        "independent draws and in cycles, and the "
        f"noise alone, with {', '.join(DISTRIBUTIONS)} noise on {', '.join(instruction_sets)}, equal the plain-torch "
        "reference bit for bit"
    )


def _tensors_after_steps(optimizer: Optimizer, params: list[Tensor]) -> dict[str, Tensor]:
    for _ in range(STEPS):
        optimizer.step()
    found = {f"parameter {i}": param for i, param in enumerate(params)}
    for i, param in enumerate(params):
        for key, value in optimizer.state[param].items():
            if isinstance(value, Tensor):
                found[f"{key} of parameter {i}"] = value
    return found


def _check_native(
    rule: str, dtype: torch.dtype, master: bool, noise: str, draws: str, instruction_sets: list[str]
) -> None:  # fmt: skip
    start = make_parameters(SMALL_LIST, dtype)
    gradients = make_gradients(start)

    def run(backend: str) -> dict[str, Tensor]:
        params = copy_parameters(start, gradients)
        optimizer = RULES[rule].nvrm(
            params, **RULES[rule].options, variability=VARIABILITY, noise=noise, draws=draws, master_weights=master,
            backend=backend, seed=0,  # without one the two would have different noise
        )  # fmt: skip
        return _tensors_after_steps(optimizer, params)

    expected = run("reference")
    for instruction_set in instruction_sets:
        use_instruction_set(instruction_set)
        found = run("native")
        for name, tensor in expected.items():
            if name not in found or not torch.equal(found[name], tensor):
                raise RedGate(
                    f"NVRM-{rule} on {instruction_set}, {dtype}, {noise} noise, draws {draws}, "
                    f"{'with master weights' if master else 'in place'}: {name} differs from the reference after "
                    f"{STEPS} steps"
                )


def _check_published(rule: str) -> None:
    """The published algorithm is a fair contestant only if its clean weights follow the plain rule."""
    start = make_parameters(SMALL_LIST)
    gradients = make_gradients(start)
    noisy, plain = copy_parameters(start, gradients), copy_parameters(start, gradients)
    published = make_optimizer(rule, "published", noisy)
    _tensors_after_steps(published, noisy)
    _tensors_after_steps(make_optimizer(rule, FOR_LOOP, plain), plain)
    for i, (param, expected) in enumerate(zip(noisy, plain)):
        old_noise = published.state[param]["noise1"]
        if not torch.allclose(param - old_noise, expected, rtol=0, atol=2e-6) or torch.equal(param, expected):
            raise RedGate(f"the published NVRM-{rule}: clean weights of parameter {i} are not those of the plain rule")


def _check_noise(noise: str, instruction_set: str) -> None:
    use_instruction_set(instruction_set)
    arguments = (12345, 6, 7, distribution_code(noise), VARIABILITY, 3)
    found, expected = torch.full((4099,), torch.nan), torch.full((4099,), torch.nan)
    fill_noise_(found, *arguments, backend="native")
    fill_noise_(expected, *arguments, backend="reference")
    if not torch.equal(found, expected):
        raise RedGate(f"{noise} noise alone on {instruction_set} differs from the reference")
