"""A parameter's state: its record, its masters, and what a step needs where there is less."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..contract import record
from ..contract.checks import wide_dtype
from ..contract.record import Record
from . import measures
from .batches import MASTER, PERTURBATION, STEP, ParamRef
from .interface import SteppedOptimizer
from .memory import allocate
from .shards import local_tensor

# Records.


def read_records(records: list[Tensor]) -> list[list[int]]:
    """The words of records, with one transfer a device."""
    by_device: dict[torch.device, list[int]] = {}
    for i, words in enumerate(records):
        by_device.setdefault(words.device, []).append(i)
    found: list[list[int]] = [[] for _ in records]
    for positions in by_device.values():
        for i, words in zip(positions, torch.stack([records[i] for i in positions]).tolist()):
            found[i] = words
    return found


def taken_streams(states: Iterable[dict[str, Any]]) -> set[int]:
    """The streams of all records."""
    records = [state[PERTURBATION] for state in states if PERTURBATION in state]
    return {words[record.STREAM] for words in read_records(records)}


def new_record(ref: ParamRef, taken: set[int], rule_steps: int) -> Tensor:
    """A record without noise, with a stream that no other parameter has (which is noted in `taken`)."""
    stream = ref.stream
    while stream in taken:
        stream = (stream + 1) % 2**32
    taken.add(stream)
    words = Record(0.0, 0, 0, stream, 0, 0, rule_steps, ref.param.numel())
    return torch.tensor(record.pack(words), device=local_tensor(ref.param).device)


# Masters.


def complete_master(optimizer: SteppedOptimizer, group: dict[str, Any], ref: ParamRef, state: dict[str, Any]) -> None:
    """Gives a parameter that is to have a master one, of its clean weights."""
    param = ref.param
    if optimizer._wants_master(group, param) and MASTER not in state:
        optimizer._take_noise_off(group, [ref])
        state[MASTER] = allocate(param, wide_dtype(param.dtype)).copy_(param)


def widen_master(param: Tensor, state: dict[str, Any]) -> None:
    """The master in the dtype that goes with the parameter's, if the model was cast."""
    if MASTER in state and state[MASTER].dtype != wide_dtype(param.dtype):
        state[MASTER] = allocate(param, wide_dtype(param.dtype)).copy_(state[MASTER])


# All of it.


def is_ready(optimizer: SteppedOptimizer, group: dict[str, Any], param: Tensor, state: dict[str, Any]) -> bool:
    """Whether a step needs no other state than this."""
    home, wide = local_tensor(param).device, wide_dtype(param.dtype)
    step, like = state.get(STEP), state.get(MASTER, param)
    return (
        isinstance(step, Tensor)
        and step.dtype == torch.int64
        and step.device == home
        and PERTURBATION in state
        and (state[MASTER].dtype == wide if MASTER in state else not optimizer._wants_master(group, param))
        and all(state.get(key) is not None and state[key].dtype == like.dtype for key in optimizer._rule(group).states)
        and measures.is_ready(group, param, state)
    )


def complete(optimizer: SteppedOptimizer, group: dict[str, Any], ref: ParamRef, taken: set[int]) -> dict[str, Any]:
    """The parameter's state, completed where a step needs more than there is.

    Whatever interrupts it, what is there then is true: a record says that the rule's state is new before it is.
    """
    param, rule = ref.param, optimizer._rule(group)
    state: dict[str, Any] = optimizer.state[param]
    home = local_tensor(param).device
    step = state.get(STEP)
    if not isinstance(step, Tensor) or step.dtype != torch.int64 or step.device != home:
        # It may be a number in what an old torch saved. int64, because noise must stay fresh beyond the 2^24 steps
        # that a float32 counter counts.
        state[STEP] = torch.tensor(0 if step is None else int(step), dtype=torch.int64, device=home)
    is_complete = all(state.get(key) is not None for key in rule.states)
    if PERTURBATION not in state:
        # A state of torch's, say: it has seen steps if it is complete.
        steps = max(int(state[STEP]), 1) if is_complete and rule.states else 0
        state[PERTURBATION] = new_record(ref, taken, steps)
    complete_master(optimizer, group, ref, state)
    widen_master(param, state)
    measures.complete(group, ref, state, optimizer._take_noise_off)
    like = state.get(MASTER, param)
    if not is_complete:
        state[PERTURBATION][record.RULE_STEPS] = 0
    for key in rule.states:
        value = state.get(key)
        if value is None:
            state[key] = allocate(like).zero_()
        elif value.dtype != like.dtype:  # the model was cast, or the checkpoint is of a run without masters
            state[key] = allocate(like).copy_(value)
    return state
