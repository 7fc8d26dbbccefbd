"""Exact local noise on GPUs: the pass after the product and its gradients, as nvrm_fast/reference/local.py.

A tile is some positions (objects, and in convolutions places of their output) by some neurons. The dimension whose
elements are neighbours in memory comes last: neurons in dense layers, positions in convolutions. Sums are made tile by
tile into parts of their own and added by torch, so that they are the same in every run.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import activation, local
from ..reference.angles import LAWS
from ..reference.local import Settings, check_local
from .angles import gamma_magnitude, sphere_coordinate, turn, words_of
from .distribution import draw, gaussian
from .elementary import divide, square_root

SUMS = tl.constexpr(6)
NORMAL, GAMMA = tl.constexpr(local.NORMAL), tl.constexpr(local.GAMMA)
WARPS = 4
#: Four activations a thread: with more, backward runs out of registers.
TILE_POSITIONS, TILE_NEURONS = 4, 128
#: Tiles that one program does down its neurons; their sums stay in registers.
STEPS = 16


@triton.jit(do_not_specialize=["positions", "inner", "stream", "step", "offset"])
def local_kernel(
    s, grad, out, square, tangent, scale, gain, spread, bias, constants, key, scalars, neuron_part, square_part,
    positions, neurons, inner, groups, group_blocks, stream, step, offset,
    LAW: tl.constexpr, MAGNITUDE: tl.constexpr, BOOST: tl.constexpr, GIVEN: tl.constexpr, FAN_IN: tl.constexpr,
    TANGENT_DIMENSION: tl.constexpr, BACKWARD: tl.constexpr, SLOPES: tl.constexpr, BY_NEURON: tl.constexpr,
    TILE_P: tl.constexpr, TILE_N: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Forward: out = y. Backward: out = the gradient for s, and the sums' parts."""
    seed = tl.load(key)
    stream = stream.to(tl.int64)
    step = step.to(tl.int64)
    group = tl.program_id(1) // group_blocks
    channels = neurons // groups
    flat_neuron = group * channels + tl.program_id(1) % group_blocks * TILE_N + tl.arange(0, TILE_N)
    flat_mask = flat_neuron < (group + 1) * channels
    flat_mask = flat_mask & (tl.program_id(1) % group_blocks * TILE_N + tl.arange(0, TILE_N) < channels)
    if BY_NEURON:
        neuron = flat_neuron[None, :]
        neuron_mask = flat_mask[None, :]
    else:
        neuron = flat_neuron[:, None]
        neuron_mask = flat_mask[:, None]
    of_scale = tl.load(scale + neuron, mask=neuron_mask, other=0.0)
    of_gain = tl.load(gain + neuron, mask=neuron_mask, other=0.0)
    of_bias = tl.load(bias + neuron, mask=neuron_mask, other=0.0)
    if MAGNITUDE != 0:
        of_spread = tl.load(spread + neuron, mask=neuron_mask, other=0.0)

    if BACKWARD:
        if BY_NEURON:
            nothing = tl.zeros((TILE_P, TILE_N), tl.float32)
        else:
            nothing = tl.zeros((TILE_N, TILE_P), tl.float32)
        sum_scale = nothing
        sum_gain = nothing
        sum_spread = nothing
        sum_bias = nothing
        sum_first = nothing
        sum_second = nothing

    for i in range(STEPS):
        flat_position = (tl.program_id(0).to(tl.int64) * STEPS + i) * TILE_P + tl.arange(0, TILE_P)
        if BY_NEURON:
            position = flat_position[:, None]
        else:
            position = flat_position[None, :]
        mask = (position < positions) & neuron_mask
        if BY_NEURON:
            outer = position
            place = position * 0
            index = position * neurons + neuron
        else:
            outer = position // inner
            place = position % inner
            index = (outer * neurons + neuron) * inner + place
        element = index + offset

        x = tl.load(s + index, mask=mask, other=0.0).to(tl.float32)
        if LAW != 0 or MAGNITUDE == NORMAL:
            w0, w1, w2, w3 = words_of(element, (stream * 0).to(tl.uint32), stream, step, seed)
        unit = x * of_scale
        # Brings a neuron's parameter to the tile's shape; adding -0 changes nothing, and compiles to nothing.
        zero = tl.full(unit.shape, -0.0, tl.float32)
        factor = of_gain + zero
        if MAGNITUDE == NORMAL:
            xi, _ = gaussian(w1)
            factor = tl.fma(xi, of_spread + zero, of_gain + zero)
        if MAGNITUDE == GAMMA:
            xi = gamma_magnitude(element, mask, stream, step, seed, scalars, BOOST)
            factor = tl.fma(xi, of_spread + zero, of_gain + zero)
        d = unit
        if LAW != 0:
            cosine, sine, slope_0, slope_1 = turn(
                element, mask, w1, w2, w3, stream, step, seed, scalars, constants, neuron, neuron_mask, neurons, LAW,
                FAN_IN, SLOPES,
            )  # fmt: skip
            if GIVEN:
                across = tl.load(square + index, mask=mask, other=0.0)
            else:
                whole = tl.load(square + (outer * groups + group) * inner + place, mask=position < positions, other=0.0)
                u = sphere_coordinate(w0, tl.load(scalars), TANGENT_DIMENSION)
                rest = tl.fma(-unit, unit, whole + zero)
                rest = tl.where(rest > 0.0, rest, 0.0)
                rho = square_root(rest)
                across = rho * u
                if BACKWARD:
                    # No more than rounding error where x is parallel to the direction: rho has no gradient there.
                    regular = rest > whole * 2.0**-22
                    h = sine * tl.where(regular, divide(u, tl.where(regular, rho, 1.0)), 0.0)
            d = tl.fma(cosine, unit, sine * across)
        if not BACKWARD:
            y = tl.fma(factor, d, of_bias + zero)
            tl.store(out + index, y.to(out.dtype.element_ty), mask=mask)
        else:
            dy = tl.load(grad + index, mask=mask, other=0.0).to(tl.float32)
            dd = dy * factor
            moved = dy * d
            d_unit = dd
            if LAW != 0:
                if GIVEN:
                    tl.store(tangent + index, dd * sine, mask=mask)
                    d_unit = dd * cosine
                else:
                    d_unit = dd * tl.fma(-unit, h, cosine)
                    part = tl.where(mask, dd * h, 0.0)
                    parts = square_part + tl.program_id(1).to(tl.int64) * positions + flat_position
                    tl.store(parts, tl.sum(part, axis=1 if BY_NEURON else 0), mask=flat_position < positions)
                if SLOPES:
                    turning = tl.where(mask, dd * tl.fma(cosine, across, -(sine * unit)), 0.0)
                    sum_first += tl.where(mask, turning * slope_0, 0.0)
                    sum_second += tl.where(mask, turning * slope_1, 0.0)
            # Elements that do not exist have dy = 0, but their variates may not be finite.
            sum_scale += tl.where(mask, d_unit * x, 0.0)
            sum_gain += tl.where(mask, moved, 0.0)
            sum_bias += dy
            if MAGNITUDE != 0:
                sum_spread += tl.where(mask, moved * xi, 0.0)
            tl.store(out + index, (d_unit * of_scale).to(out.dtype.element_ty), mask=mask)

    if BACKWARD:
        AXIS: tl.constexpr = 0 if BY_NEURON else 1
        parts = neuron_part + tl.program_id(0).to(tl.int64) * SUMS * neurons + flat_neuron
        tl.store(parts, tl.sum(sum_scale, axis=AXIS), mask=flat_mask)
        tl.store(parts + neurons, tl.sum(sum_gain, axis=AXIS), mask=flat_mask)
        tl.store(parts + 2 * neurons, tl.sum(sum_spread, axis=AXIS), mask=flat_mask)
        tl.store(parts + 3 * neurons, tl.sum(sum_bias, axis=AXIS), mask=flat_mask)
        tl.store(parts + 4 * neurons, tl.sum(sum_first, axis=AXIS), mask=flat_mask)
        tl.store(parts + 5 * neurons, tl.sum(sum_second, axis=AXIS), mask=flat_mask)


@functools.lru_cache(maxsize=256)
def layer_scalars(fan_in: int, alpha: float, low: float, high: float, device: torch.device) -> Tensor:
    """What all activations of a layer share, worked out in float64: float32 on the device, in angles.py's order."""
    rate = lambda dimension: 1 / dimension if dimension > 0 else 0.0  # noqa: E731
    chi = activation.GammaConstants.of((fan_in - 1) / 2 if fan_in > 1 else 1.0)
    gamma = activation.GammaConstants.of(1 / alpha if alpha > 0 else 1.0)
    values = [
        rate(fan_in - 3), rate(fan_in - 2), fan_in - 1, *chi, 2 * chi.d, *gamma, alpha * gamma.d, alpha, low, high,
    ]  # fmt: skip
    return torch.tensor(values, dtype=torch.float64).float().to(device)


def _launch(s, grad, out, square, tangent, parameters, constants, key, settings: Settings, parts, slopes: bool) -> None:
    """Runs the kernel; grad is None in the forward pass. parts: memory for the sums, or None."""
    outer, neurons, inner = s.shape
    scale, gain, spread, bias = (None if x is None else x.contiguous() for x in parameters)
    directed = settings.direction != local.NO_DIRECTION
    groups = square.shape[1] if directed and not settings.given else 1
    by_neuron = inner == 1
    tile_p, tile_n = (TILE_POSITIONS, TILE_NEURONS) if by_neuron else (TILE_NEURONS, TILE_POSITIONS)
    steps = _steps(grad is not None)
    group_blocks = triton.cdiv(neurons // groups, tile_n)
    grid = (triton.cdiv(outer * inner, tile_p * steps), groups * group_blocks)
    zeros = gain if bias is not None else torch.zeros_like(gain)
    unused = zeros
    neuron_part, square_part = (unused, unused) if parts is None else parts
    local_kernel[grid](
        s, s if grad is None else grad, out, square if directed else unused, unused if tangent is None else tangent,
        scale, gain, gain if spread is None else spread, zeros if bias is None else bias,
        constants if directed else unused, key, layer_scalars(*settings[5:9], s.device), neuron_part, square_part,
        outer * inner, neurons, inner, groups, group_blocks, settings.stream, settings.step, settings.offset,
        LAW=settings.direction, MAGNITUDE=settings.magnitude, BOOST=settings.alpha > 1, GIVEN=bool(settings.given),
        FAN_IN=min(settings.fan_in, 3), TANGENT_DIMENSION=min(settings.fan_in - 1, 3), BACKWARD=grad is not None,
        SLOPES=bool(slopes), BY_NEURON=by_neuron, TILE_P=tile_p, TILE_N=tile_n, STEPS=steps, num_warps=WARPS,
        enable_fp_fusion=False,
    )  # fmt: skip


def _steps(backward: bool) -> int:
    return STEPS if backward else 1


def local_noise(
    s: Tensor, square: Tensor, scale: Tensor, gain: Tensor, spread: Tensor | None, bias: Tensor | None,
    first: Tensor | None, second: Tensor | None, constants: Tensor, key: Tensor, *settings,
) -> Tensor:  # fmt: skip
    """Noisy activations; arguments and errors as nvrm_fast.reference.local.local_noise, which serves float64."""
    if s.dtype == torch.float64:
        return local.local_noise(s, square, scale, gain, spread, bias, first, second, constants, key, *settings)
    at = Settings(*settings)
    check_local(s, square, key, at)
    s = s.contiguous()
    out = torch.empty_like(s)
    if s.numel():
        _launch(
            s, None, out, square.contiguous(), None, (scale, gain, spread, bias), constants.contiguous(), key, at, None,
            False,
        )  # fmt: skip
    return out


def local_noise_backward(
    grad: Tensor, s: Tensor, square: Tensor, scale: Tensor, gain: Tensor, spread: Tensor | None, bias: Tensor | None,
    first: Tensor | None, second: Tensor | None, constants: Tensor, key: Tensor, *settings_and_slopes,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients; arguments and results as nvrm_fast.reference.local.local_noise_backward, which serves float64."""
    if s.dtype == torch.float64:
        return local.local_noise_backward(
            grad, s, square, scale, gain, spread, bias, first, second, constants, key, *settings_and_slopes
        )
    *settings, slopes = settings_and_slopes
    at = Settings(*settings)
    check_local(s, square, key, at)
    s, square, grad = s.contiguous(), square.contiguous(), grad.to(s.dtype).contiguous()
    outer, neurons, inner = s.shape
    directed = at.direction != local.NO_DIRECTION
    own = directed and not at.given
    groups = square.shape[1] if own else 1
    tile_p, tile_n = (TILE_POSITIONS, TILE_NEURONS) if inner == 1 else (TILE_NEURONS, TILE_POSITIONS)
    ds = torch.empty_like(s)
    tangent = torch.empty_like(square) if directed and at.given else None
    blocks = triton.cdiv(neurons // groups, tile_n)
    neuron_part = scale.new_empty(triton.cdiv(outer * inner, tile_p * _steps(True)), SUMS.value, neurons)
    square_part = scale.new_empty(groups * blocks if own else 0, outer * inner)
    count = LAWS[at.direction].parameters if directed and slopes else 0
    if s.numel():
        _launch(
            s, grad, ds, square, tangent, (scale, gain, spread, bias), constants.contiguous(), key, at,
            (neuron_part, square_part), count > 0,
        )  # fmt: skip
    sums = neuron_part.sum(dim=0)
    nothing = lambda: scale.new_empty(0)  # noqa: E731
    d_square = nothing() if tangent is None else tangent
    if own:
        d_square = 0.5 * square_part.view(groups, blocks, outer, inner).sum(dim=1).transpose(0, 1).contiguous()
    wanted = (
        True, True, at.magnitude != local.NO_MAGNITUDE, bias is not None, count > 0 and first is not None,
        count > 1 and second is not None,
    )  # fmt: skip
    return ds, d_square, *(sums[k].clone() if want else nothing() for k, want in enumerate(wanted))


@triton.jit(do_not_specialize=["numel", "stream", "step", "offset"])
def gaussian_kernel(out, key, numel, stream, step, offset):
    """One superblock of parameter noise, whose seed lies on the device."""
    row = tl.arange(0, 16)
    superblock = offset // 128 + tl.program_id(0)
    block = superblock.to(tl.int64) * 16 + row
    element = superblock * 128 + row[:, None] + 16 * tl.arange(0, 8)[None, :] - offset
    values = draw(block, stream.to(tl.int64), step.to(tl.int64), tl.load(key), 1.0, 0)
    tl.store(out + element, values, mask=(element >= 0) & (element < numel))


def gaussian_like(like: Tensor, key: Tensor, stream: int, step: int, offset: int) -> Tensor:
    """N(0, 1), float32, of like's shape; as nvrm_fast.reference.activation.gaussian_like, but the key is never copied
    to the host."""
    out = torch.empty(like.shape, dtype=torch.float32, device=like.device)
    if out.numel():
        programs = -(-(offset + out.numel()) // 128) - offset // 128
        gaussian_kernel[(programs,)](out, key, out.numel(), stream, step, offset, num_warps=1, enable_fp_fusion=False)
    return out
