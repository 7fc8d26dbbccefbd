"""Master weights where somebody else wrote the parameter: what was written is what training goes on with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract.arguments import ReperturbArguments
from ..contract.record import SCALE
from ..ops.step import reperturb_
from .batches import PERTURBATION, ParamRef

#: A parameter cast to a wider dtype still has the roundings of the one that it had.
_NARROWER = {
    torch.float64: (torch.float32, torch.bfloat16, torch.float16), torch.float32: (torch.bfloat16, torch.float16),
}  # fmt: skip


def mark(params: list[Tensor], data: list[Tensor]) -> tuple[list[int], list[int], list[int]] | None:
    """What changes when a parameter is written or gets other data: versions and addresses. None: nothing tells
    (inference tensors have no version). A DTensor's operations raise its own version, those on its part that one's."""
    try:
        own = [] if params is data else [x._version for x in data]
        return [x._version for x in params], own, [x.data_ptr() for x in data]
    except RuntimeError:
        return None


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one dtype hold the same bits; NaN counts as a value like another."""
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.view(words) == b.view(words)


def take_over(data: Tensor, master: Tensor, state: dict[str, Any], ref: ParamRef, backend: str | None) -> None:
    """Brings into `master` what was written into the parameter since the optimizer wrote it.

    Element by element, by values: where the parameter is not what master and noise round to, the master becomes the
    parameter (if no noise is on) or takes the difference over (if there is). Elements that nobody wrote keep their
    bits. The host reads nothing and does not wait.

    Args:
        data: the parameter's memory in this process, of any dtype that parameters have.
        master: clean weights of data's shape; overwritten.
    """
    words: Tensor = state[PERTURBATION]
    expected = torch.empty_like(data).copy_(master)
    carries = words.clone()
    carries[SCALE] = 0
    place = ref.place
    reperturb_(
        ReperturbArguments(
            params=[expected],
            masters=[master],
            records=[carries],
            targets=[words],
            offsets=[place.offset],
            run_lengths=[place.run_length] if place.run_length else [],
            run_strides=[place.run_stride] if place.run_length else [],
        ),
        backend=backend,
    )
    same = same_bits(data, expected)
    for narrow in _NARROWER.get(data.dtype, ()):
        same |= data == expected.to(narrow)
    wide = data.to(master.dtype)
    written = torch.where(words[SCALE] == 0, wide, master + (wide - expected.to(master.dtype)))
    master.copy_(torch.where(same, master, written))
