"""Who is compared: one row of a table each, how it is built and how many bytes it has to move."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import nvrm_fast.optim

from .compiled import CompiledAdam, CompiledSGD
from .machine import benchmarked_instruction_sets
from .outside import SampledIvon, has_ivon
from .published import PublishedAdam, PublishedSGD


@dataclass(frozen=True)
class Rule:
    """A plain rule, and the classes that implement it without noise, with stored noise, eager and compiled, and with
    recomputed noise."""

    torch: type[Optimizer]
    published: type[Optimizer]
    compiled: type[Optimizer]
    nvrm: type[Optimizer]
    options: dict[str, Any]
    moments: int  # state tensors of the plain rule


RULES: dict[str, Rule] = {
    "SGD": Rule(torch.optim.SGD, PublishedSGD, CompiledSGD, nvrm_fast.optim.NVRMSGD, dict(lr=1e-3, momentum=0.9), 1),
    "Adam": Rule(torch.optim.Adam, PublishedAdam, CompiledAdam, nvrm_fast.optim.NVRMAdam, dict(lr=1e-4), 2),
}

VARIABILITY = 0.01
IVON_RATE = 0.1

# How a rule is carried out.
FUSED, FOREACH, FOR_LOOP = "fused", "foreach", "for-loop"
PUBLISHED, COMPILED, IVON = "published", "torch.compile", "IVON"
IN_PLACE, MASTER = "in place", "master weights"


@dataclass(frozen=True)
class Contestant:
    """A row. Rows that differ only in instruction_set share one optimizer, hence the very same memory."""

    name: str
    rule: str
    variant: str
    instruction_set: str | None = None


def make_optimizer(rule: str, variant: str, params: Iterable[Tensor]) -> Optimizer:
    """The optimizer of a row on params, which have their gradients."""
    classes = RULES[rule]
    if variant in (FUSED, FOREACH, FOR_LOOP):
        # Both given, so that torch never chooses for itself.
        return classes.torch(params, **classes.options, fused=variant == FUSED, foreach=variant == FOREACH)
    if variant == PUBLISHED:
        return classes.published(params, **classes.options, variability=VARIABILITY)
    if variant == COMPILED:
        return classes.compiled(params, **classes.options, variability=VARIABILITY)
    if variant == IVON:
        return SampledIvon(params, lr=IVON_RATE)
    # The gate compares two of them: one noise for all.
    return classes.nvrm(params, **classes.options, variability=VARIABILITY, master_weights=variant == MASTER, seed=0)


def contestants(rule: str, dtype: torch.dtype = torch.float32, *, compiled: bool = False) -> list[Contestant]:
    """The rows of one table; the first is the one that ratios are taken against.

    compiled: the published algorithm under torch.compile too. One graph holds all tensors, so that a hundred of them
    take long to compile.
    """
    plain = f"torch.optim.{rule}"
    if dtype == torch.float32:
        rows = [Contestant(f"{plain}, {variant}", rule, variant) for variant in (FUSED, FOREACH, FOR_LOOP)]
        rows.append(Contestant(f"published NVRM-{rule}, eager", rule, PUBLISHED))
        if compiled:
            rows.append(Contestant(f"published NVRM-{rule}, torch.compile", rule, COMPILED))
        if rule == "Adam" and has_ivon():
            rows.append(Contestant("IVON (ivon-opt), sample and step", rule, IVON))
        storages = (IN_PLACE, MASTER)
    else:
        # Never against torch's fused SGD in 16 bits: on the CPU, torch 2.13 skips whole vector blocks there, so it is
        # fast and wrong. The for-loop is right, and it does no more than torch offers: weights and state in 16 bits.
        rows = [Contestant(f"{plain}, {FOR_LOOP}", rule, FOR_LOOP)]
        storages = (MASTER,)
    for storage in storages:
        for instruction_set in benchmarked_instruction_sets():
            rows.append(Contestant(f"NVRM{rule}, {storage}, {instruction_set}", rule, storage, instruction_set))
    return rows


def bytes_per_element(rule: str, variant: str, dtype: torch.dtype = torch.float32) -> int:
    """Bytes that one pass over all that the algorithm keeps must read and write, for each element of the parameters.

    What an implementation moves beyond that (more passes, temporaries) is its own affair and lowers its GB/s.
    """
    width = dtype.itemsize
    gradient = width
    if variant == MASTER:
        # float32 master and moments read and written, the parameter only written.
        return gradient + width + 2 * 4 + RULES[rule].moments * 2 * 4
    plain = gradient + 2 * width + RULES[rule].moments * 2 * width
    if variant == IVON:
        # Two moments as Adam; the second is read once more to sample, and the sample is written and read.
        return plain + 3 * width
    if variant == COMPILED:
        return plain + 2 * width  # one noise tensor, read and overwritten
    # noise1 is read and overwritten, noise2 is overwritten.
    return plain + 3 * width if variant == PUBLISHED else plain


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state and, beside parameters, in its groups (where IVON keeps its own),
    by walking them; memory that two entries share counts once."""
    storages: dict[int, int] = {}

    def walk(value: Any) -> None:
        if isinstance(value, Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict):
            for key, inner in value.items():
                if not (isinstance(key, str) and key == "params"):
                    walk(inner)

    for holder in (optimizer.state, *optimizer.param_groups):
        walk(holder)
    return sum(storages.values())
