"""Which memory of this process carries noise, and which record says so.

Noise lies in memory, whatever parameter, optimizer or state holds it. So an optimizer that finds no record of its own
(its state was deleted or replaced, or it is a new one) asks here before it takes weights for clean.
"""

from __future__ import annotations

import math
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ..contract.arguments import ReperturbArguments
from ..contract.checks import wide_dtype
from ..contract.measures import row_length
from ..contract.record import SCALE, unpack
from ..ops.by_way_of_cpu import to_cpu
from ..ops.step import reperturb_
from .batches import MASTER, MEASURE, PERTURBATION, ParamRef
from .shards import local_tensor


class Carried(NamedTuple):
    """A record, its measures and the clean weights beside it where there are any. The memory is not kept alive."""

    storage: StorageWeakRef
    record: Tensor
    measures: Tensor | None
    master: weakref.ref[Tensor] | None


_known: dict[tuple[int, int], Carried] = {}
_purge_at = 1024


def _key(data: Tensor) -> tuple[int, int]:
    return int(data.untyped_storage()._cdata), int(data.storage_offset())


def note(param: Tensor, state: dict[str, Any]) -> None:
    """From now on the record in its state says what the parameter's memory carries."""
    global _purge_at
    data = local_tensor(param)
    if data.numel() == 0 or data.device.type == "meta":
        return
    if len(_known) >= _purge_at:
        for key in [key for key, carried in _known.items() if carried.storage.expired()]:
            del _known[key]
        _purge_at = max(1024, 2 * len(_known))
    own = weakref.ref(local_tensor(state[MASTER])) if MASTER in state else None
    storage = StorageWeakRef(data.untyped_storage())
    _known[_key(data)] = Carried(storage, state[PERTURBATION], state.get(MEASURE), own)


def find(param: Tensor) -> Carried | None:
    """What is known of the parameter's memory: None, or a record of noise that is on, if nobody has taken it off."""
    data = local_tensor(param)
    if not _known or data.numel() == 0 or data.device.type == "meta":
        return None
    carried = _known.get(_key(data))
    if carried is None or carried.storage.expired() or carried.record.device != data.device:
        return None
    record = unpack(carried.record.tolist())
    return carried if record.scale != 0 and record.numel == param.numel() else None


def _change(
    data: Tensor, masters: list[Tensor], record: Tensor, measures: Tensor | None, ref: ParamRef, backend: str | None
) -> None:
    """Takes off what the record says, and writes that into it."""
    target, place = record.clone(), ref.place
    target[SCALE] = 0
    arguments = ReperturbArguments(
        params=[data],
        masters=masters,
        records=[record],
        targets=[target],
        offsets=[place.offset],
        run_lengths=[place.run_length] if place.run_length else [],
        run_strides=[place.run_stride] if place.run_length else [],
        measures=[] if measures is None else [measures],
        row_lengths=[] if measures is None else [row_length(ref.param.numel(), measures.shape[1])],
    )
    reperturb_(arguments, backend=backend)


def without_noise(data: Tensor, record: Tensor, measures: Tensor | None, ref: ParamRef, backend: str | None) -> Tensor:
    """A copy of the weights, in the dtype that rules compute in, without the noise that their record tells of."""
    clean = data.detach().to(wide_dtype(data.dtype), copy=True)
    _change(clean, [], record.clone(), measures, ref, backend)
    return clean


def amount(carried: Carried, ref: ParamRef, backend: str | None) -> tuple[float, float]:
    """How much of the recorded noise is in the weights, in units of it, and the standard deviation of that estimate.

    1: it is on. 0: other weights were put in. The estimate is the regression of the weights on the noise; its standard
    deviation is that for weights that know nothing of the noise.
    """
    data = local_tensor(ref.param)
    weights = data.to(wide_dtype(data.dtype))
    without = without_noise(data, carried.record, carried.measures, ref, backend)
    noise = to_cpu(weights - without).double()
    size = float(noise.square().sum())
    if not 0 < size < math.inf:
        return 0.0, math.inf
    weights = to_cpu(weights).double()
    return float((weights * noise).sum()) / size, float((weights.square().mean() / size).sqrt())


#: With less than this amount of the recorded noise in them, weights are other ones.
PUT_IN = 0.25


def tells(numel: int, deviation: float) -> bool:
    """Whether a parameter's amount() decides about it. In a few elements clean weights and noise may cancel."""
    return numel >= 16 and deviation < 0.1


def were_all_put_in(amounts: list[tuple[float, float]]) -> bool:
    """Whether a model's weights were all put in since, beyond doubt: by amount() of those parameters that tell."""
    certainty = sum(deviation**-2 for _, deviation in amounts if deviation > 0)  # 0: zeros carry no noise
    return certainty > 1000 and all(amount < PUT_IN for amount, _ in amounts)


def take_off(carried: Carried, ref: ParamRef, backend: str | None) -> None:
    """Takes the noise off, exactly where the clean weights are still there."""
    data = local_tensor(ref.param)
    master = None if carried.master is None else carried.master()
    fits = master is not None and master.dtype == wide_dtype(data.dtype) and master.shape == data.shape
    masters = [master] if fits else []
    _change(data, masters, carried.record, carried.measures, ref, backend)  # type: ignore[arg-type]


def forget(param: Tensor) -> None:
    _known.pop(_key(local_tensor(param)), None)


def carries_noise(param: Tensor) -> bool:
    """Whether a record of this process says that the parameter's memory carries noise now."""
    return not torch.nn.parameter.is_lazy(param) and find(param) is not None
