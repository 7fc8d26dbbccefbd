"""Stochastic activations on GPUs: what follows the product of doubled width, as nvrm_fast/reference/stochastic.py.

A tile is some examples by some places of an example's run of neurons and positions, which are neighbors in memory. Sums
are made tile by tile into parts of their own and added by torch, so that they are the same in every run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contract import layers
from ..contract.layers import StochasticSettings, check_stochastic_activation
from ..reference import special_functions, stochastic
from .angles import words_of
from .distribution import gaussian
from .special_functions import divide, exponential, logarithm_over, negative_ln_of
from .tiles import run_width

RELU = tl.constexpr(layers.RELU)
NOTHING, NEURON, SAMPLE, ELEMENT, DIVERGENCE = (tl.constexpr(code) for code in layers.SUMS.values())
TAIL = tl.constexpr(stochastic.TAIL)
THIRD = tl.constexpr(stochastic.THIRD)
LN_2 = tl.constexpr(-special_functions.MINUS_LN_2)
WARPS = 4
TILE_ROWS, TILE_PLACES = 4, 128
#: Tiles that one program does down the examples; the sums of its places stay in registers.
STEPS = 4


@triton.jit
def deviation(raw):
    """sigma, log sigma and both slopes."""
    grown, _ = exponential(tl.abs(raw))
    small = grown < THIRD
    f = tl.where(small, grown, (grown - 1.0) * 0.5)
    sigma = tl.where(raw < 0.0, 0.0, raw) + (tl.where(small, 0.0, LN_2) - logarithm_over(f, 1.0) * f)
    log = tl.where(raw > TAIL, -negative_ln_of(sigma), raw)
    slope = divide(tl.where(raw < 0.0, grown, 1.0), 1.0 + grown)
    return sigma, log, slope, divide(slope, sigma)


@triton.jit
def noise_of(element, stream, step, seed):
    """N(0, 1) of each element, int64, in the layout of parameter noise: an element takes its value from its block."""
    within = element % 128
    block = element // 128 * 16 + within % 16
    lane = (within // 16).to(tl.int32)
    # A block's number takes all 64 bits here; words_of splits it where the trials of other layers have theirs.
    w0, w1, w2, w3 = words_of(block, (stream * 0).to(tl.uint32), stream, step, seed)
    word = tl.where(lane < 4, tl.where(lane < 2, w0, w1), tl.where(lane < 6, w2, w3))
    first, second = gaussian(word)
    return tl.where(lane % 2 == 0, first, second)


@triton.jit(do_not_specialize=["outer", "run", "inner", "stream", "step", "offset"])
def stochastic_kernel(
    z,
    grad,
    weight,
    out,
    parts,
    key,
    outer,
    run,
    inner,
    stream,
    step,
    offset,
    margin,
    ACTIVATION: tl.constexpr,
    SUMS: tl.constexpr,
    BACKWARD: tl.constexpr,
    TILE_R: tl.constexpr,
    TILE_P: tl.constexpr,
    STEPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Forward: out = activations, parts = (programs of rows, run) for NEURON, else (programs of places, outer).
    Backward: out = the gradient for z. WIDTH divides run, which the compiler takes from a product with it: so a
    thread's elements are one access."""
    run = run // WIDTH * WIDTH
    seed = tl.load(key)
    stream = stream.to(tl.int64)
    step = step.to(tl.int64)
    place = tl.program_id(1) * TILE_P + tl.arange(0, TILE_P)
    here = place < run
    over_rows = tl.zeros((TILE_P,), tl.float32)
    for i in range(STEPS):
        row = (tl.program_id(0).to(tl.int64) * STEPS + i) * TILE_R + tl.arange(0, TILE_R)
        there = row < outer
        mask = there[:, None] & here[None, :]
        at_mean = 2 * row[:, None] * run + place[None, :]
        at_y = row[:, None] * run + place[None, :]
        mean = tl.load(z + at_mean, mask=mask, other=0.0).to(tl.float32)
        raw = tl.load(z + at_mean + run, mask=mask, other=0.0).to(tl.float32)
        eps = noise_of(at_y + offset, stream, step, seed)
        sigma, log, slope, log_slope = deviation(raw)
        y = tl.fma(sigma, eps, mean)
        if not BACKWARD:
            if ACTIVATION == RELU:
                y = tl.where(y < 0.0, 0.0, y)
            tl.store(out + at_y, y.to(out.dtype.element_ty), mask=mask)
            added = log
            if SUMS == ELEMENT:
                added = tl.where(margin - log < 0.0, 0.0, margin - log)
            if SUMS == DIVERGENCE:
                added = (mean * mean + sigma * sigma - 1.0) * 0.5 - log
            added = tl.where(mask, added, 0.0)
            if SUMS == NEURON:
                over_rows += tl.sum(added, axis=0)
            elif SUMS != NOTHING:
                tl.store(parts + tl.program_id(1).to(tl.int64) * outer + row, tl.sum(added, axis=1), mask=there)
        else:
            d_mean = tl.load(grad + at_y, mask=mask, other=0.0).to(tl.float32)
            if ACTIVATION == RELU:
                d_mean = tl.where(y > 0.0, d_mean, 0.0)
            d_raw = (d_mean * eps) * slope
            if SUMS != NOTHING:
                if SUMS == NEURON:
                    w = tl.load(weight + place // inner, mask=here, other=0.0)[None, :] + mean * 0.0
                else:
                    w = tl.load(weight + row, mask=there, other=0.0)[:, None] + mean * 0.0
                if SUMS == ELEMENT:
                    d_raw = tl.where(log < margin, tl.fma(-w, log_slope, d_raw), d_raw)
                elif SUMS == DIVERGENCE:
                    d_mean = tl.fma(w, mean, d_mean)
                    d_raw = tl.fma(w, tl.fma(sigma, slope, -log_slope), d_raw)
                else:
                    d_raw = tl.fma(w, log_slope, d_raw)
            tl.store(out + at_mean, d_mean.to(out.dtype.element_ty), mask=mask)
            tl.store(out + at_mean + run, d_raw.to(out.dtype.element_ty), mask=mask)
    if not BACKWARD:
        if SUMS == NEURON:
            tl.store(parts + tl.program_id(0).to(tl.int64) * run + place, over_rows, mask=here)


def _launch(z: Tensor, grad, weight, out: Tensor, parts, key: Tensor, settings: StochasticSettings, grid) -> None:
    outer, doubled, inner = z.shape
    stochastic_kernel[grid](
        z,
        z if grad is None else grad,
        z if weight is None else weight,
        out,
        z if parts is None else parts,
        key,
        outer,
        doubled // 2 * inner,
        inner,
        settings.stream,
        settings.step,
        settings.offset,
        settings.margin,
        ACTIVATION=settings.activation,
        SUMS=settings.sums,
        BACKWARD=grad is not None,
        TILE_R=TILE_ROWS,
        TILE_P=TILE_PLACES,
        STEPS=STEPS,
        WIDTH=run_width(doubled // 2 * inner),
        num_warps=WARPS,
        enable_fp_fusion=False,
    )


def _grid(z: Tensor) -> tuple[int, int]:
    return triton.cdiv(z.shape[0], TILE_ROWS * STEPS), triton.cdiv(z.shape[1] // 2 * z.shape[2], TILE_PLACES)


def stochastic_activation(z: Tensor, key: Tensor, *settings) -> tuple[Tensor, Tensor]:
    """Activations and sums; arguments and errors as nvrm_fast.reference.stochastic, which serves float64."""
    if z.dtype == torch.float64:
        return torch.ops.nvrm_fast.stochastic_activation.reference(z, key, *settings)
    at = StochasticSettings(*settings)
    check_stochastic_activation(z, key, at)
    z = z.contiguous()
    outer, doubled, inner = z.shape
    neurons, grid = doubled // 2, _grid(z)
    y = z.new_empty(outer, neurons, inner)
    by_neuron = at.sums == layers.NEURON
    shape = (grid[0], neurons * inner) if by_neuron else (grid[1], outer)
    parts = torch.empty(shape if at.sums else (0,), dtype=torch.float32, device=z.device)
    if y.numel():
        _launch(z, None, None, y, parts, key, at, grid)
    else:
        parts.zero_()
    if at.sums == layers.NOTHING:
        return y, parts
    return y, parts.view(grid[0], neurons, inner).sum(dim=(0, 2)) if by_neuron else parts.sum(dim=0)


def stochastic_activation_backward(grad: Tensor, grad_sums: Tensor, z: Tensor, key: Tensor, *settings) -> Tensor:
    """The gradient for z; arguments as nvrm_fast.reference.stochastic, which serves float64."""
    if z.dtype == torch.float64:
        return torch.ops.nvrm_fast.stochastic_activation_backward.reference(grad, grad_sums, z, key, *settings)
    at = StochasticSettings(*settings)
    check_stochastic_activation(z, key, at)
    z = z.contiguous()
    dz = torch.empty_like(z)
    if dz.numel():
        weight = grad_sums.float().contiguous() if at.sums else None
        _launch(z, grad.to(z.dtype).contiguous(), weight, dz, None, key, at, _grid(z))
    return dz
