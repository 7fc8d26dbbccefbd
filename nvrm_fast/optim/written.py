"""Master weights where somebody else wrote the parameter: what was written is what training goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..contract.arguments import ReperturbArguments
from ..contract.measures import row_length
from ..contract.record import SCALE, unpack
from ..ops.step import reperturb_
from .batches import MEASURE, PERTURBATION, ParamRef
from .shards import Place

#: So many elements are compared at a time: few enough that what a comparison needs beside them is little memory, and
#: enough that torch's threads are worth waking.
PIECE = 1 << 23

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
    bits. On the CPU it reads both once, piece by piece, and writes where they differ; elsewhere the host reads nothing
    and does not wait.

    Args:
        data: the parameter's memory in this process, of any dtype that parameters have.
        master: clean weights of data's shape; overwritten.
    """
    words: Tensor = state[PERTURBATION]
    measures: Tensor | None = state.get(MEASURE)
    relative: dict[str, Any] = {}
    if measures is not None:
        relative = dict(measures=[measures], row_lengths=[row_length(ref.param.numel(), measures.shape[1])])
    if data.device.type != "cpu":
        expected = _expected(data, master, words, ref.place, backend, relative)
        _take_differences(data, master, expected, words[SCALE] == 0)
        return
    is_clean = unpack(words.tolist()).scale == 0
    if is_clean and data.dtype == master.dtype and data.is_contiguous() and master.is_contiguous():
        if equal_bits(data.view(-1), master.view(-1)):  # one pass by all threads
            return
    for own, clean, start in _pieces(data, master, ref.place, is_clean):
        place = ref.place._replace(offset=ref.place.offset + start)
        # Cast in either case, so that the comparison is one of bits.
        expected = clean.to(own.dtype) if is_clean else _expected(own, clean, words, place, backend, relative)
        if not equal_bits(own, expected):
            _take_differences(own, clean, expected, is_clean)


def _pieces(data: Tensor, master: Tensor, place: Place, is_clean: bool) -> Iterator[tuple[Tensor, Tensor, int]]:
    """The same elements of both, and the position of their first. Of noise the order of the elements matters, so that
    what is not contiguous stays in one piece."""
    if data.is_contiguous() and master.is_contiguous() and not (place.run_length and not is_clean):
        for i, pair in enumerate(zip(data.view(-1).split(PIECE), master.view(-1).split(PIECE))):
            yield *pair, i * PIECE
    else:
        yield data, master, 0


def equal_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype and shape hold the same bits."""
    words = torch.int64
    if a.dim() != 1 or any(x.nbytes % 8 or x.data_ptr() % 8 or not x.is_contiguous() for x in (a, b)):
        words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    elif any(x.storage_offset() * x.element_size() % 8 for x in (a, b)):  # torch asks this of a view
        words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.view(words), b.view(words))


def _expected(
    data: Tensor, master: Tensor, words: Tensor, place: Place, backend: str | None, relative: dict[str, Any]
) -> Tensor:
    """What master and noise round to."""
    expected = torch.empty_like(data).copy_(master)
    carries = words.clone()
    carries[SCALE] = 0
    reperturb_(
        ReperturbArguments(
            params=[expected],
            masters=[master],
            records=[carries],
            targets=[words],
            offsets=[place.offset],
            run_lengths=[place.run_length] if place.run_length else [],
            run_strides=[place.run_stride] if place.run_length else [],
            **relative,
        ),
        backend=backend,
    )
    return expected


def _take_differences(data: Tensor, master: Tensor, expected: Tensor, is_clean: Tensor | bool) -> None:
    same = same_bits(data, expected)
    for narrow in _NARROWER.get(data.dtype, ()):
        same |= data == expected.to(narrow)
    wide = data.to(master.dtype)
    difference = master + (wide - expected.to(master.dtype))
    if isinstance(is_clean, Tensor):
        written = torch.where(is_clean, wide, difference)
    else:
        written = wide if is_clean else difference
    master.copy_(torch.where(same, master, written))
