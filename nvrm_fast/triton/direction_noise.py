"""Direction and magnitude noise on GPUs: the pass after the product and its gradients, as in
nvrm_fast/reference/direction_noise.py.

A tile is some positions (examples, and in convolutions places of their output) by some neurons. The dimension whose
elements are neighbors in memory comes last: neurons in dense layers, positions in convolutions. Sums are made tile by
tile into parts of their own and added by torch, so that they are the same in every run.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contract import laws
from ..contract.laws import LAWS, NO_DIRECTION
from ..contract.layers import (
    DirectionParameters,
    DirectionSettings,
    GammaConstants,
    check_direction_noise,
    direction_arguments,
    neuron_gradients,
    sq_norm_gradient,
    wanted_gradients,
)
from .angles import gamma_magnitude, sphere_coordinate, turn, words_of
from .distribution import GAUSSIAN, draw, gaussian
from .special_functions import divide, square_root
from .tiles import forward_steps, run_width

SUMS = tl.constexpr(6)
NORMAL, GAMMA = tl.constexpr(laws.NORMAL), tl.constexpr(laws.GAMMA)
WARPS = 4
#: Four activations a thread: with more, backward runs out of registers.
TILE_POSITIONS, TILE_NEURONS = 4, 128
#: Tiles that one program of backward does down its neurons; their sums stay in registers.
STEPS = 16


@triton.jit(do_not_specialize=["outers", "neurons", "inner", "stream", "step", "offset"])
def direction_kernel(
    s,
    grad,
    out,
    sq_norm,
    tangent,
    scale,
    magnitude_mean,
    magnitude_std,
    bias,
    constants,
    key,
    scalars,
    neuron_part,
    sq_norm_part,
    outers,
    neurons,
    inner,
    groups,
    group_blocks,
    stream,
    step,
    offset,
    LAW: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    BOOST: tl.constexpr,
    TANGENT_GIVEN: tl.constexpr,
    FAN_IN: tl.constexpr,
    TANGENT_DIMENSION: tl.constexpr,
    BACKWARD: tl.constexpr,
    SLOPES: tl.constexpr,
    BY_NEURON: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_N: tl.constexpr,
    STEPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Forward: out = y. Backward: out = the gradient for s, and the sums' parts. WIDTH divides the length of a run of
    neighbors in memory, which the compiler takes from a product with it: so a thread's elements are one access."""
    seed = tl.load(key)
    stream = stream.to(tl.int64)
    step = step.to(tl.int64)
    group = tl.program_id(1) // group_blocks
    if BY_NEURON:
        neurons = neurons // WIDTH * WIDTH
        channels = neurons // groups // WIDTH * WIDTH
    else:
        channels = neurons // groups
        inner = inner // WIDTH * WIDTH
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
    of_magnitude_mean = tl.load(magnitude_mean + neuron, mask=neuron_mask, other=0.0)
    of_bias = tl.load(bias + neuron, mask=neuron_mask, other=0.0)
    if MAGNITUDE != 0:
        of_magnitude_std = tl.load(magnitude_std + neuron, mask=neuron_mask, other=0.0)

    if BACKWARD:
        if BY_NEURON:
            nothing = tl.zeros((TILE_P, TILE_N), tl.float32)
        else:
            nothing = tl.zeros((TILE_N, TILE_P), tl.float32)
        sum_scale = nothing
        sum_magnitude_mean = nothing
        sum_magnitude_std = nothing
        sum_bias = nothing
        sum_param_0 = nothing
        sum_param_1 = nothing

    for i in range(STEPS):
        flat_position = (tl.program_id(0).to(tl.int64) * STEPS + i) * TILE_P + tl.arange(0, TILE_P)
        if BY_NEURON:
            position = flat_position[:, None]
        else:
            position = flat_position[None, :]
        if BY_NEURON:
            outer = position
            place = position * 0
            index = position * neurons + neuron
        else:
            outer = position // inner
            place = position % inner
            index = (outer * neurons + neuron) * inner + place
        # Not by the position: a run of places has one outer number, and so one mask.
        there = outer < outers
        mask = there & neuron_mask
        element = index + offset

        x = tl.load(s + index, mask=mask, other=0.0).to(tl.float32)
        if LAW != 0 or MAGNITUDE == NORMAL:
            w0, w1, w2, w3 = words_of(element, (stream * 0).to(tl.uint32), stream, step, seed)
        unit = x * of_scale
        # Brings a neuron's parameter to the tile's shape; adding -0 changes nothing, and compiles to nothing.
        zero = tl.full(unit.shape, -0.0, tl.float32)
        factor = of_magnitude_mean + zero
        if MAGNITUDE == NORMAL:
            xi, _ = gaussian(w1)
            factor = tl.fma(xi, of_magnitude_std + zero, of_magnitude_mean + zero)
        if MAGNITUDE == GAMMA:
            xi = gamma_magnitude(element, mask, stream, step, seed, scalars, BOOST)
            factor = tl.fma(xi, of_magnitude_std + zero, of_magnitude_mean + zero)
        d = unit
        if LAW != 0:
            cosine, sine, slope_0, slope_1 = turn(
                element,
                mask,
                w1,
                w2,
                w3,
                stream,
                step,
                seed,
                scalars,
                constants,
                neuron,
                neuron_mask,
                neurons,
                LAW,
                FAN_IN,
                SLOPES,
            )
            if TANGENT_GIVEN:
                across = tl.load(sq_norm + index, mask=mask, other=0.0)
            else:
                whole = tl.load(sq_norm + (outer * groups + group) * inner + place, mask=there, other=0.0)
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
                if TANGENT_GIVEN:
                    tl.store(tangent + index, dd * sine, mask=mask)
                    d_unit = dd * cosine
                else:
                    d_unit = dd * tl.fma(-unit, h, cosine)
                    part = tl.where(mask, dd * h, 0.0)
                    positions = outers.to(tl.int64) * inner
                    parts = sq_norm_part + tl.program_id(1).to(tl.int64) * positions + flat_position
                    tl.store(parts, tl.sum(part, axis=1 if BY_NEURON else 0), mask=flat_position < positions)
                if SLOPES:
                    turning = tl.where(mask, dd * tl.fma(cosine, across, -(sine * unit)), 0.0)
                    sum_param_0 += tl.where(mask, turning * slope_0, 0.0)
                    sum_param_1 += tl.where(mask, turning * slope_1, 0.0)
            # Elements that do not exist have dy = 0, but their variates may not be finite.
            sum_scale += tl.where(mask, d_unit * x, 0.0)
            sum_magnitude_mean += tl.where(mask, moved, 0.0)
            sum_bias += dy
            if MAGNITUDE != 0:
                sum_magnitude_std += tl.where(mask, moved * xi, 0.0)
            tl.store(out + index, (d_unit * of_scale).to(out.dtype.element_ty), mask=mask)

    if BACKWARD:
        AXIS: tl.constexpr = 0 if BY_NEURON else 1
        parts = neuron_part + tl.program_id(0).to(tl.int64) * SUMS * neurons + flat_neuron
        tl.store(parts, tl.sum(sum_scale, axis=AXIS), mask=flat_mask)
        tl.store(parts + neurons, tl.sum(sum_magnitude_mean, axis=AXIS), mask=flat_mask)
        tl.store(parts + 2 * neurons, tl.sum(sum_magnitude_std, axis=AXIS), mask=flat_mask)
        tl.store(parts + 3 * neurons, tl.sum(sum_bias, axis=AXIS), mask=flat_mask)
        tl.store(parts + 4 * neurons, tl.sum(sum_param_0, axis=AXIS), mask=flat_mask)
        tl.store(parts + 5 * neurons, tl.sum(sum_param_1, axis=AXIS), mask=flat_mask)


@functools.lru_cache(maxsize=256)
def layer_scalars(fan_in: int, alpha: float, low: float, high: float, device: torch.device) -> Tensor:
    """What all activations of a layer share, worked out in float64: float32 on the device, in angles.py's order."""
    rate = lambda dimension: 1 / dimension if dimension > 0 else 0.0  # noqa: E731
    chi = GammaConstants.of_shape((fan_in - 1) / 2 if fan_in > 1 else 1.0)
    gamma = GammaConstants.of_shape(1 / alpha if alpha > 0 else 1.0)
    values = [
        rate(fan_in - 3),
        rate(fan_in - 2),
        fan_in - 1,
        *chi,
        2 * chi.d,
        *gamma,
        alpha * gamma.d,
        alpha,
        low,
        high,
    ]
    return torch.tensor(values, dtype=torch.float64).float().to(device)


def _launch(
    s, grad, out, sq_norm, tangent, scale, p: DirectionParameters, settings: DirectionSettings, parts, slopes: bool
) -> None:
    """Runs the kernel; grad is None in the forward pass. parts: memory for the sums, or None."""
    outer, neurons, inner = s.shape
    scale, constants = scale.contiguous(), p.constants.contiguous()
    magnitude_mean, magnitude_std, bias = (None if x is None else x.contiguous() for x in p[:3])
    directed = settings.law != NO_DIRECTION
    groups = sq_norm.shape[1] if directed and not settings.tangent_given else 1
    by_neuron = inner == 1
    tile_p, tile_n = (TILE_POSITIONS, TILE_NEURONS) if by_neuron else (TILE_NEURONS, TILE_POSITIONS)
    group_blocks = triton.cdiv(neurons // groups, tile_n)
    steps = STEPS if grad is not None else forward_steps(triton.cdiv(outer * inner, tile_p) * groups * group_blocks)
    grid = (triton.cdiv(outer * inner, tile_p * steps), groups * group_blocks)
    zeros = magnitude_mean if bias is not None else torch.zeros_like(magnitude_mean)
    unused = zeros
    neuron_part, sq_norm_part = (unused, unused) if parts is None else parts
    direction_kernel[grid](
        s,
        s if grad is None else grad,
        out,
        sq_norm if directed else unused,
        unused if tangent is None else tangent,
        scale,
        magnitude_mean,
        magnitude_mean if magnitude_std is None else magnitude_std,
        zeros if bias is None else bias,
        constants if directed else unused,
        p.key,
        layer_scalars(*settings[5:9], s.device),
        neuron_part,
        sq_norm_part,
        outer,
        neurons,
        inner,
        groups,
        group_blocks,
        settings.stream,
        settings.step,
        settings.offset,
        LAW=settings.law,
        MAGNITUDE=settings.magnitude,
        BOOST=settings.alpha > 1,
        TANGENT_GIVEN=bool(settings.tangent_given),
        FAN_IN=min(settings.fan_in, 3),
        TANGENT_DIMENSION=min(settings.fan_in - 1, 3),
        BACKWARD=grad is not None,
        SLOPES=bool(slopes),
        BY_NEURON=by_neuron,
        TILE_P=tile_p,
        TILE_N=tile_n,
        STEPS=steps,
        WIDTH=run_width(neurons // groups if by_neuron else inner),
        num_warps=WARPS,
        enable_fp_fusion=False,
    )


def direction_noise(
    s: Tensor,
    sq_norm: Tensor,
    scale: Tensor,
    *parameters_and_settings,
) -> Tensor:
    """Noisy activations; arguments and errors as in nvrm_fast/reference/direction_noise.py, which serves float64."""
    if s.dtype == torch.float64:
        return torch.ops.nvrm_fast.direction_noise.reference(s, sq_norm, scale, *parameters_and_settings)
    p, at = direction_arguments(parameters_and_settings)
    check_direction_noise(s, sq_norm, p.key, at)
    s = s.contiguous()
    out = torch.empty_like(s)
    if s.numel():
        _launch(
            s,
            None,
            out,
            sq_norm.contiguous(),
            None,
            scale,
            p,
            at,
            None,
            False,
        )
    return out


def direction_noise_backward(
    grad: Tensor,
    s: Tensor,
    sq_norm: Tensor,
    scale: Tensor,
    *parameters_settings_and_slopes,
) -> tuple[Tensor, ...]:
    """Gradients; arguments and results as in nvrm_fast/reference/direction_noise.py, which serves float64."""
    if s.dtype == torch.float64:
        return torch.ops.nvrm_fast.direction_noise_backward.reference(
            grad,
            s,
            sq_norm,
            scale,
            *parameters_settings_and_slopes,
        )
    *rest, slopes = parameters_settings_and_slopes
    p, at = direction_arguments(rest)
    check_direction_noise(s, sq_norm, p.key, at)
    s, sq_norm, grad = s.contiguous(), sq_norm.contiguous(), grad.to(s.dtype).contiguous()
    outer, neurons, inner = s.shape
    directed = at.law != NO_DIRECTION
    own = directed and not at.tangent_given
    groups = sq_norm.shape[1] if own else 1
    tile_p, tile_n = (TILE_POSITIONS, TILE_NEURONS) if inner == 1 else (TILE_NEURONS, TILE_POSITIONS)
    ds = torch.empty_like(s)
    tangent = torch.empty_like(sq_norm) if directed and at.tangent_given else None
    blocks = triton.cdiv(neurons // groups, tile_n)
    neuron_part = scale.new_empty(triton.cdiv(outer * inner, tile_p * STEPS), SUMS.value, neurons)
    sq_norm_part = scale.new_empty(groups * blocks if own else 0, outer, inner)
    if s.numel():
        _launch(
            s,
            grad,
            ds,
            sq_norm,
            tangent,
            scale,
            p,
            at,
            (neuron_part, sq_norm_part),
            slopes and directed and LAWS[at.law].parameter_count > 0,
        )
    d_sq_norm = scale.new_empty(0) if tangent is None else tangent
    if own:
        d_sq_norm = sq_norm_gradient(sq_norm_part, groups)
    return ds, d_sq_norm, *neuron_gradients(neuron_part, wanted_gradients(p, at, slopes))


@triton.jit(do_not_specialize=["numel", "stream", "step", "offset"])
def gaussian_kernel(out, key, numel, stream, step, offset):
    """One superblock of parameter noise, whose seed lies on the device."""
    row = tl.arange(0, 16)
    superblock = offset // 128 + tl.program_id(0)
    block = superblock.to(tl.int64) * 16 + row
    element = superblock * 128 + row[:, None] + 16 * tl.arange(0, 8)[None, :] - offset
    even, odd = draw(block, stream.to(tl.int64), step.to(tl.int64), tl.load(key), GAUSSIAN)
    values = tl.reshape(tl.join(even, odd), (16, 8))
    tl.store(out + element, values, mask=(element >= 0) & (element < numel))


def gaussian_like(like: Tensor, key: Tensor, stream: int, step: int, offset: int) -> Tensor:
    """N(0, 1), float32, of like's shape; as nvrm_fast.reference.activation.gaussian_like, but the key is never copied
    to the host."""
    out = torch.empty(like.shape, dtype=torch.float32, device=like.device)
    if out.numel():
        programs = -(-(offset + out.numel()) // 128) - offset // 128
        gaussian_kernel[(programs,)](out, key, out.numel(), stream, step, offset, num_warps=1, enable_fp_fusion=False)
    return out
