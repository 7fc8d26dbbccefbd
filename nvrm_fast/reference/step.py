"""The fused step: noise off, rule on the clean weights, noise on (NVRM paper, section 3, algorithm 1).

    clean  = p - b_prev * eps(the draw that the record tells of)
    clean' = rule(clean, grad, state)
    p      = clean' + b_now * eps(step + 1, or in cycles its draw, turned)

Arguments are documented in nvrm_fast/contract/arguments.py. Everything that belongs to one parameter is written by one
call of torch, so that not even Ctrl-C leaves weights and record that do not fit together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract.arguments import Arguments, MeasureArguments, ReperturbArguments, StepArguments
from ..contract.checks import check_measure, check_reperturb, check_step, wide_dtype
from ..contract.cycles import draw_and_turn
from ..contract.measures import CLEAN, ON
from ..contract.record import NOISE_WORDS, Record, pack, unpack
from ..contract.rules import RULES
from .measure import finish, positions, scales_of, sums_of
from .noise import add_noise
from .rule import BY_CODE


def _place(a: Arguments, i: int) -> dict[str, int]:
    """Where the noise of parameter i begins, and how it runs on."""
    runs = dict(run_length=a.run_lengths[i], run_stride=a.run_strides[i]) if a.run_lengths else {}
    return dict(offset=a.offsets[i], **runs)


def _clean(a: Arguments, i: int, carried: Record, keep_noise: bool = False) -> Tensor:
    """Clean weights in the dtype in which the rule computes."""
    if a.masters:
        return a.masters[i]
    wide = a.params[i].to(wide_dtype(a.params[i].dtype))
    return wide if keep_noise else _without_noise(a, i, wide, carried, ON)


def _rows(a: Arguments, i: int) -> Tensor | None:
    """The row of each element of parameter i; None: it has one measure."""
    length = a.row_lengths[i] if a.measures else 0
    if length == 0:
        return None
    place = _place(a, i)
    runs = place.get("run_length", 0), place.get("run_stride", 0)
    return positions(a.params[i].numel(), place["offset"], *runs, a.params[i].device) // length


def _with_noise(a: Arguments, i: int, x: Tensor, draw: Record, line: int = ON) -> Tensor:
    """x with the noise of a record, which is scaled by this line of the parameter's measures if it is relative."""
    scale, row_scales = draw.scale, None
    if draw.is_relative and scale != 0:
        scales, row = scales_of(scale, a.measures[i][line]), _rows(a, i)
        scale, row_scales = (float(scales), None) if row is None else (1.0, scales[row])
    return add_noise(
        x, seed=draw.seed, stream=draw.stream, step=draw.step, distribution=draw.distribution, scale=scale,
        turn=draw.turn, row_scales=row_scales, **_place(a, i),
    )  # fmt: skip


def _without_noise(a: Arguments, i: int, x: Tensor, draw: Record, line: int) -> Tensor:
    return _with_noise(a, i, x, draw._replace(scale=-draw.scale), line)


def _measure(a: StepArguments | MeasureArguments, i: int, clean: Tensor, moves: bool) -> list[tuple[Tensor, Tensor]]:
    """What is to be written of the measures of these clean weights: targets and values. moves: CLEAN to ON, too."""
    measures = a.measures[i]
    rows = measures.shape[1]
    sums = sums_of(clean, a.measure, _rows(a, i), rows)
    written = [(measures[ON], measures[CLEAN])] if moves else []
    if a.sums:
        return [*written, (a.sums[i], sums)]
    return [*written, (measures[CLEAN], finish(sums, a.measure, clean.numel() // rows))]


def _write(values: list[tuple[Tensor, Tensor]]) -> None:
    """Overwrites each first tensor with the second; one call, which no signal handler interrupts."""
    torch._foreach_copy_([target for target, _ in values], [value for _, value in values])


def step_(*args: Any) -> None:
    a = StepArguments(*args)
    check_step(a)
    if a.found_inf is not None and bool(a.found_inf != 0):
        return
    update, n = BY_CODE[a.rule], len(a.params)
    values = a.hyper if a.hyper_tensor is None else a.hyper_tensor.tolist()
    hyper = dict(zip((hyper.name for hyper in RULES[a.rule].hyper), values))
    done = [int(step) for step in a.steps]
    for i, (param, grad) in enumerate(zip(a.params, a.grads)):
        step, words = done[i] + 1, a.records[i]
        record = unpack(words.tolist())
        x = _clean(a, i, record, a.keep_noise)
        g = grad.to(x.dtype)
        if a.grad_scale is not None:
            g = g / a.grad_scale.reshape(()).to(x.dtype)
        states = a.states[i::n]
        x, *new = update(
            x, g, *(state.to(x.dtype) for state in states), is_first=record.rule_steps == 0, step=step, **hyper
        )
        scale = float(a.scale_tensors[i]) if a.scale_tensors else a.scale
        if a.denoise_every and step % a.denoise_every == 0:
            scale = 0.0
        draw, turn = draw_and_turn(step, a.cycle)
        drawn = record._replace(
            scale=scale, seed=a.seed, distribution=a.distribution, step=draw, turn=turn,
            rule_steps=record.rule_steps + 1, is_relative=a.measure != 0,
        )  # fmt: skip
        noisy = _with_noise(a, i, x, drawn, CLEAN)
        measured: list[tuple[Tensor, Tensor]] = []
        if a.measure:
            clean = x if a.masters else _without_noise(a, i, noisy.to(param.dtype).to(x.dtype), drawn, CLEAN)
            measured = _measure(a, i, clean, moves=True)
        left = drawn._replace(scale=0.0) if a.keep_noise else drawn
        _write([
            *zip(states, new),
            *([(a.masters[i], noisy if a.keep_noise else x)] if a.masters else []),
            (param, noisy),
            (words, torch.tensor(pack(left), device=words.device)),
            *measured,
            (a.steps[i], a.steps[i] + 1),
        ])  # fmt: skip


def reperturb_(*args: Any) -> None:
    a = ReperturbArguments(*args)
    check_reperturb(a)
    for i, (param, words, target) in enumerate(zip(a.params, a.records, a.targets)):
        record, wanted = unpack(words.tolist()), unpack(target.tolist())
        written = [(words[:NOISE_WORDS], target[:NOISE_WORDS])]
        if record.scale != 0 or wanted.scale != 0:
            written.append((param, _with_noise(a, i, _clean(a, i, record), wanted)))
        _write(written)


def measure_(*args: Any) -> None:
    a = MeasureArguments(*args)
    check_measure(a)
    for i, words in enumerate(a.records):
        carried = unpack(words.tolist())
        if not (a.only_clean and carried.scale != 0):
            _write(_measure(a, i, _clean(a, i, carried), moves=False))
