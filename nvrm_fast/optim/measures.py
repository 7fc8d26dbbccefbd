"""Noise whose scale is relative to the clean weights: options, state, and when weights are measured anew.

A step scales its noise by the measure of the clean weights that it starts from, which the step before has left in the
parameter's state (contract/measures.py). Where that may not be of the weights that are there, because this is the first
step or somebody has written weights, a pass of its own measures them first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..contract.arguments import MeasureArguments
from ..contract.measures import CLEAN, MEASURES, ON, PER, RMS, SUM_WORDS, row_length, rows_of
from ..contract.record import RELATIVE, Record, pack, unpack
from ..ops.step import finish_sums, measure_
from . import capture, written
from .batches import MEASURE, PERTURBATION, ParamBatch, ParamRef, Part, Plan, make_batches
from .shards import is_distributed, local_tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def check_options(group: dict[str, Any]) -> None:
    """Raises ValueError for what `relative` and `per` cannot be."""
    relative, per = group.get("relative"), group.get("per", "tensor")
    if not (relative is None or isinstance(relative, str)) or relative not in MEASURES:
        names = ", ".join(repr(name) for name in MEASURES if name)
        raise ValueError(f"relative must be None or one of {names}; got {relative!r}")
    if per not in PER:
        raise ValueError(f"per must be one of {', '.join(map(repr, PER))}; got {per!r}")


def code_of(group: dict[str, Any]) -> int:
    """The operators' code of the group's measure; 0: its b is absolute."""
    return MEASURES[group.get("relative")]


def is_ready(group: dict[str, Any], param: Tensor, state: dict[str, Any]) -> bool:
    """Whether the state has the measures that the group's options ask for."""
    if not code_of(group):
        return True
    value, shape = state.get(MEASURE), (2, rows_of(param.shape, group["per"]))
    return (
        isinstance(value, Tensor)
        and value.dtype == torch.float32
        and value.device == local_tensor(param).device
        and value.shape == shape
    )


def complete(
    group: dict[str, Any], ref: ParamRef, state: dict[str, Any],
    take_noise_off: Callable[[dict[str, Any], list[ParamRef]], None],
) -> None:  # fmt: skip
    """Gives a parameter's state its measures. Noise that was scaled by others comes off by them before."""
    if is_ready(group, ref.param, state):
        return
    if MEASURE in state:
        take_noise_off(group, [ref])
    elif unpack(state[PERTURBATION].tolist()).is_relative:
        raise ValueError(
            f"parameter {ref.name} carries noise whose scale is relative to its weights, but its state has no "
            f"{MEASURE}: load a state that is complete"
        )
    shape = 2, rows_of(ref.param.shape, group["per"])
    state[MEASURE] = torch.zeros(shape, dtype=torch.float32, device=local_tensor(ref.param).device)


def relative_bits(group: dict[str, Any], bits: Tensor) -> Tensor:
    """The words SCALE of records that the group's noise has, from the bits of its variability."""
    return torch.where(bits != 0, bits | RELATIVE, bits) if code_of(group) else bits


# Measuring.


def refresh(part: Part, plan: Plan, scale: float | Tensor, *, may_be_clean: bool, may_be_skipped: bool) -> None:
    """Before a step: brings the measures of clean weights up to date.

    The weights are as the last step left them where their versions and addresses say so and noise is on; a captured
    graph, which asks nobody, measures those without noise.

    Args:
        scale: of the step, before it is multiplied.
        may_be_clean: the weights may carry no noise, and be written by ways that tell nobody.
        may_be_skipped: the device decides whether the step is done.
    """
    group = part.group
    if not code_of(group):
        return
    is_known = plan.measured is not None and not plan.is_shared
    if is_known and part.data is None:
        is_known = plan.measured == written.mark(part.params, plan.data(part))
    plan.measured = None
    if not isinstance(scale, Tensor) and scale == 0 and not plan.has_shards and not may_be_skipped:
        return  # nothing is put on, and the step measures what it makes
    for k, batch in enumerate(plan.batches):
        if not (batch.is_selected and batch.has_measures):
            continue
        data = plan.data(part)
        if not is_known or may_be_clean or capture.is_capturing():
            own = [data[i] for i in batch.members]
            arguments = _arguments(group, batch, own, plan.lists[k].measures, plan.sums_of(k), only_clean=is_known)
            measure_(arguments, backend=group["backend"])
        if plan.has_shards:
            refs = [plan.refs[i] for i in batch.members]
            _join(group, refs, plan.sums_of(k), plan.lists[k].measures)


def note(part: Part, plan: Plan) -> None:
    """After a step: the measures are of the weights that it left."""
    if code_of(part.group):
        plan.measured = written.mark(part.params, plan.data(part))


def measured_for(group: dict[str, Any], refs: list[ParamRef], state: Any) -> list[Tensor]:
    """The measures of the clean weights that these parameters have now, noise on or off: float32, (rows,) each. None
    where the group's b is absolute."""
    if not code_of(group):
        return []
    states = [state[ref.param] for ref in refs]
    found: list[Tensor] = [torch.empty(0)] * len(refs)
    for batch in make_batches(refs, states):
        members = [refs[i] for i in batch.members]
        measures = [x.clone() for x in batch.tensors(MEASURE)]
        sums = sums_for(members, measures)
        data = [local_tensor(ref.param) for ref in members]
        measure_(_arguments(group, batch, data, measures, sums), backend=group["backend"])
        if sums:
            _join(group, members, sums, measures)
        for i, x in zip(batch.members, measures):
            found[i] = x[CLEAN]
    return found


def scale_by(refs: list[ParamRef], state: Any, measured: list[Tensor]) -> None:
    """The noise that is put on next, where none is on now, is scaled by these."""
    for ref, measures in zip(refs, measured):
        state[ref.param][MEASURE][ON].copy_(measures)


def measures_of(clean: Tensor, group: dict[str, Any]) -> Tensor:
    """The measures of weights that carry no noise, each row of which is whole: float32, shape (rows,)."""
    rows = rows_of(clean.shape, group["per"])
    measures = torch.zeros(2, rows, device=clean.device)
    arguments = MeasureArguments(
        params=[clean],
        masters=[],
        records=[torch.tensor(pack(Record(0.0, 0, 0, 0, 0, 0, 0, clean.numel())), device=clean.device)],
        offsets=[0],
        measures=[measures],
        sums=[],
        row_lengths=[row_length(clean.numel(), rows)],
        measure=code_of(group),
    )
    measure_(arguments, backend=group["backend"])
    return measures[CLEAN]


def _arguments(
    group: dict[str, Any], batch: ParamBatch, data: list[Tensor], measures: list[Tensor], sums: list[Tensor],
    only_clean: bool = False,
) -> MeasureArguments:  # fmt: skip
    return MeasureArguments(
        params=data,
        masters=[local_tensor(x) for x in batch.masters()],
        records=batch.tensors(PERTURBATION),
        offsets=batch.offsets,
        run_lengths=batch.run_lengths,
        run_strides=batch.run_strides,
        measures=measures,
        row_lengths=batch.row_lengths,
        measure=code_of(group),
        sums=sums,
        only_clean=only_clean,
    )


# Shards: each process sums up what it has.


def sums_for(refs: list[ParamRef], measures: list[Tensor]) -> list[Tensor]:
    """Room for the sums of parameters of which any is distributed; else none."""
    if not any(is_distributed(ref.param) for ref in refs):
        return []
    return [torch.zeros(x.shape[1], SUM_WORDS, dtype=torch.int64, device=x.device) for x in measures]


def _join(group: dict[str, Any], refs: list[ParamRef], sums: list[Tensor], measures: list[Tensor]) -> None:
    """The measures of clean weights from the sums of all processes, which stay as they are. Every process that has a
    part of a parameter must come here as often as the others."""
    code = code_of(group)
    by_place: dict[tuple[Any, ...], list[int]] = {}
    for i, ref in enumerate(refs):
        shards = cast("DTensor", ref.param) if is_distributed(ref.param) else None
        by_place.setdefault((shards.device_mesh, tuple(shards.placements)) if shards is not None else (), []).append(i)
    for place, members in by_place.items():
        joined = torch.cat([sums[i] for i in members])
        if place:
            mesh, placements = place
            _reduce(joined, mesh, placements, is_sum=code == RMS)
        for i, own in zip(members, joined.split([len(sums[i]) for i in members])):
            measures[i][CLEAN].copy_(finish_sums(own, code, refs[i].param.numel() // len(own)))


def _reduce(sums: Tensor, mesh: Any, placements: tuple[Any, ...], is_sum: bool) -> None:
    if mesh.get_coordinate() is None:
        return  # this process has no part of it
    operation = torch.distributed.ReduceOp.SUM if is_sum else torch.distributed.ReduceOp.MAX
    for dim, placement in enumerate(placements):
        if not placement.is_replicate():
            torch.distributed.all_reduce(sums, op=operation, group=mesh.get_group(dim))
