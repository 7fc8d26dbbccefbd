"""Steps of relative noise for tests: lists with measures, and what one backend makes of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from step_checks import record_of
from steps import arguments_of, copy_of, place, with_noise
from torch import Tensor

from nvrm_fast.contract.arguments import MeasureArguments, ReperturbArguments
from nvrm_fast.contract.measures import row_length, rows_of
from nvrm_fast.contract.record import RELATIVE, SCALE
from nvrm_fast.ops.step import measure_, reperturb_, step_

Lists = dict[str, list[Any]]


def with_measures(lists: Lists, per: str, shapes: list[tuple[int, ...]] | None = None, sums: bool = False) -> Lists:
    """The lists with random measures. shapes: of the whole parameters, of which these are shards."""
    generator = torch.Generator().manual_seed(8)
    shapes = shapes or [tuple(x.shape) for x in lists["params"]]
    rows = [rows_of(shape, per) for shape in shapes]
    given = {
        **lists,
        "measures": [torch.rand(2, n, generator=generator) + 0.1 for n in rows],
        "row_lengths": [row_length(math.prod(shape), n) for shape, n in zip(shapes, rows)],
    }
    return {**given, "sums": [torch.full((n, 4), 99) for n in rows]} if sums else given


def extreme(lists: Lists, per: str) -> Lists:
    """The lists of two matrices with masters: weights that are broken, huge, tiny and 0; measures that are broken
    and next to infinite."""
    lists = with_measures(lists, per)
    for x in (*lists["masters"], *lists["params"]):
        x[0, 3], x[1, 2], x[2, 1] = math.nan, math.inf, -math.inf
        x[3] *= 1e30
        x[4] *= 1e-11
        x[-1] = 0.0
    lists["measures"][0].fill_(math.nan)
    lists["measures"][1].fill_(1e38)
    return lists


def _carrying(
    lists: Lists, scale: float, distribution: int, is_relative: bool, device: str, cycle: bool = False
) -> Lists:
    """Copies, whose records tell of noise."""
    given = with_noise(lists, scale, distribution, cycle)
    copies = {key: [copy_of(x) if isinstance(x, Tensor) else x for x in value] for key, value in given.items()}
    for words in copies["records"]:
        if is_relative and scale:
            words[SCALE] |= RELATIVE
    return copies if device == "cpu" else _placed(copies, device)


def _placed(given: dict[str, Any], device: str) -> dict[str, Any]:
    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(x) for x in value]
        return place(value, device) if isinstance(value, Tensor) else value

    return {key: placed(value) for key, value in given.items()}


def _left(copies: Lists) -> dict[str, list[Tensor]]:
    return {key: [x.cpu() for x in value] for key, value in copies.items() if value and isinstance(value[0], Tensor)}


def run_measured(
    lists: Lists, name: str, backend: str, measure: int, *, old_scale: float = 0.05, old_distribution: int = 0,
    old_cycle: bool = False, was_relative: bool = True, device: str = "cpu", **others: Any,
) -> dict[str, list[Tensor]]:  # fmt: skip
    """Runs one step on copies and returns every tensor list as it was left, on the CPU."""
    copies = _carrying(lists, old_scale, old_distribution, was_relative, device, old_cycle)
    step_(arguments_of(name, copies, measure=measure, **_placed(others, device)), backend=backend)
    return _left(copies)


def run_measure(
    lists: Lists, backend: str, measure: int, *, old_scale: float = 0.05, old_cycle: bool = False,
    device: str = "cpu", **others: Any,
) -> dict[str, list[Tensor]]:  # fmt: skip
    """Measures copies; their records say that they carry relative noise."""
    copies = _carrying(lists, old_scale, 1, True, device, old_cycle)
    kept = {key: copies[key] for key in MeasureArguments._fields if key in copies}
    measure_(MeasureArguments(**{"sums": [], "measure": measure, **kept, **others}), backend=backend)
    return _left(copies)


def run_relative_reperturb(lists: Lists, backend: str, old: bool, new: bool, device: str = "cpu"):
    """Laplace noise off, uniform noise on; either may be relative."""
    copies = _carrying(lists, 0.25, 2, old, device)
    targets = [record_of(1, 0.5, 3, 1, stream=40 + i, step=2**34 + i) for i in range(len(copies["params"]))]
    for words in targets:
        words[SCALE] |= RELATIVE if new else 0
    kept = {key: copies[key] for key in ReperturbArguments._fields if key in copies}
    reperturb_(ReperturbArguments(**kept, targets=[place(x, device) for x in targets]), backend=backend)
    return _left(copies)


def integers_of(sums: Tensor) -> list[list[int]]:
    """Each row's sum, and how many values were not finite. Carries between the words are left to each backend."""
    return [[low + (middle << 32) + (high << 64), broken] for low, middle, high, broken in sums.tolist()]


def same_bits(a: dict[str, list[Tensor]], b: dict[str, list[Tensor]]) -> None:
    """As steps.assert_same; NaN is a value like another."""
    assert a.keys() == b.keys()
    a, b = dict(a), dict(b)
    assert list(map(integers_of, a.pop("sums", []))) == list(map(integers_of, b.pop("sums", [])))
    for key in a:
        for i, (x, y) in enumerate(zip(a[key], b[key])):
            assert x.dtype == y.dtype and torch.equal(x.nan_to_num(nan=12345.0), y.nan_to_num(nan=12345.0)), (key, i)
