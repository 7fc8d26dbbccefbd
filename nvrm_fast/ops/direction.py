"""Direction and magnitude noise: schemas, fakes, autograd formulas, and the calls that layers make.

    direction_noise           the pass after a layer's matrix product: exact sampling for every example and neuron
    direction_noise_backward  its gradients, the noise drawn again from the key
    direction_variates        the random numbers behind it, for formulas in plain torch; the reference draws them

What they compute and the shapes are in nvrm_fast/reference/direction_noise.py. Second derivatives go by the formula
there. The key is an int64 tensor with one element: all that is kept of the noise from forward to backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..contract.arguments import schema_fields
from ..contract.laws import LAWS, NO_DIRECTION, NO_MAGNITUDE, Direction
from ..contract.layers import DirectionParameters, DirectionSettings, direction_arguments, wanted_gradients
from ..reference import direction_noise as reference
from ..reference.angles import ANGLES
from ..reference.direction_noise import Variates
from . import fused_linear, registry
from .by_way_of_cpu import to_cpu
from .operator import Route, define, set_autograd
from .transforms import transformed

_SETTINGS = schema_fields(DirectionSettings)
_TENSORS = f"Tensor s, Tensor sq_norm, Tensor scale, {schema_fields(DirectionParameters)}"
#: Of the operators' arguments: tensors that a gradient flows to, then constants and key.
_DIFFERENTIABLE, _TENSOR_COUNT = 8, 10


def _fake_direction_noise(s: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(s, memory_format=torch.contiguous_format)


def _fake_direction_noise_backward(
    grad: Tensor, s: Tensor, sq_norm: Tensor, scale: Tensor, *parameters_settings_and_slopes: Any
) -> tuple[Tensor, ...]:
    *rest, slopes = parameters_settings_and_slopes
    p, settings = direction_arguments(rest)
    return (
        torch.empty_like(s, memory_format=torch.contiguous_format),
        sq_norm.new_empty(sq_norm.shape if settings.law != NO_DIRECTION else 0),
        *(scale.new_empty((s.shape[1],) if there else 0) for there in wanted_gradients(p, settings, slopes)),
    )


def _fake_direction_variates(shape: list[int], constants: Tensor, key: Tensor, *args: Any) -> tuple[Tensor, ...]:
    settings = DirectionSettings(*args)
    directed = settings.law != NO_DIRECTION
    count = LAWS[settings.law].variate_count if directed else 0
    drawn = (settings.magnitude != NO_MAGNITUDE, directed and not settings.tangent_given, count > 0, count > 1)
    return tuple(key.new_empty(shape if there else 0, dtype=torch.float32) for there in drawn)


define(
    "direction_noise",
    f"{_TENSORS}, {_SETTINGS}",
    "Tensor",
    reference=reference.direction_noise,
    fake=_fake_direction_noise,
    native=("cpu", "cuda"),
    triton="direction_noise",
)
define(
    "direction_noise_backward",
    f"Tensor grad, {_TENSORS}, {_SETTINGS}, bool slopes",
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.direction_noise_backward,
    fake=_fake_direction_noise_backward,
    native=("cpu", "cuda"),
    triton="direction_noise",
)
define(
    "direction_variates",
    f"SymInt[] shape, Tensor constants, Tensor key, {_SETTINGS}",
    "(Tensor, Tensor, Tensor, Tensor)",
    reference=reference.direction_variates,
    fake=_fake_direction_variates,
)


def variates(shape: tuple[int, ...], constants: Tensor, key: Tensor, settings: DirectionSettings) -> Variates:
    """The random numbers behind direction_noise on activations of a shape (outer, neurons, inner): float32 of it.

    No gradient flows through them. Plain torch draws them on every device; meant for few, or for second derivatives.
    """
    xi, u, *law = torch.ops.nvrm_fast.direction_variates.reference(shape, constants, key, *settings)
    count = LAWS[settings.law].variate_count if settings.law != NO_DIRECTION else 0
    has_u = settings.law != NO_DIRECTION and not settings.tangent_given
    return Variates(xi if settings.magnitude != NO_MAGNITUDE else None, u if has_u else None, tuple(law[:count]))


def law_constants(
    direction: Direction | None,
    law_param_0: Tensor | None,
    law_param_1: Tensor | None,
    fan_in: int,
    neurons: int,
    device: torch.device,
) -> Tensor:
    """What kernels need of a law's parameters: float32, shape (rows, neurons), on the device; no gradient."""
    if direction is None:
        return torch.zeros(0, neurons, dtype=torch.float32, device=device)
    # Tangents of forward mode pass a no_grad.
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        first, second = (None if p is None else to_cpu(p) for p in (law_param_0, law_param_1))
        return ANGLES[direction.code].constants(first, second, fan_in, *direction.ends).contiguous().to(device)


def turning_angle(
    direction: Direction,
    drawn: Variates,
    constants: Tensor,
    law_param_0: Tensor | None,
    law_param_1: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """cos and sin of the angle of each activation, by functions that autograd knows: (outer, neurons, inner)."""
    law_param_0, law_param_1 = (None if p is None else p.to(dtype)[None, :, None] for p in (law_param_0, law_param_1))
    cosine, sine, _ = ANGLES[direction.code].formula(
        tuple(v.to(dtype) for v in drawn.law),
        constants.to(dtype)[:, None, :, None],
        law_param_0,
        law_param_1,
        *direction.ends,
    )
    return cosine, sine


def _double(parameters: Sequence[Tensor | None]) -> list[Tensor | None]:
    """magnitude_mean to law_param_1 in float64; constants and key as they are."""
    *floating, constants, key = parameters
    return [*(None if p is None else p.double() for p in floating), constants, key]


class DirectionNoise(torch.autograd.Function):
    """direction_noise, for a dense layer (weight given) with its product: y from x (examples, in) and weight (neurons,
    in), of one dtype, whose norms take the places of sq_norm and scale. Without a weight x is s.

    Keeps inputs and products, never noise. Differentiable twice: backward then makes the products again, in a graph.
    """

    @staticmethod
    def forward(
        ctx: Any,
        route: Route,
        settings: DirectionSettings,
        x: Tensor,
        weight: Tensor | None,
        sq_norm: Tensor | None,
        scale: Tensor | None,
        *parameters: Tensor | None,
    ) -> Tensor:
        ctx.route, ctx.settings = route, settings
        if weight is None:
            ctx.save_for_backward(x, sq_norm, scale, *parameters, None, None)
            return route.run("direction_noise", x.device, x, sq_norm, scale, *parameters, *settings)
        s, sq_norm, scale = fused_linear.normalized_product(x, weight, settings.law != NO_DIRECTION)
        wide = settings.law != NO_DIRECTION and fused_linear.beyond_float32(sq_norm)
        if wide:
            s, sq_norm, scale = fused_linear.normalized_product(x.double(), weight.double(), True)
        ctx.save_for_backward(s, sq_norm, scale, *parameters, x, weight)
        y = route.run(
            "direction_noise", x.device, s, sq_norm, scale, *(_double(parameters) if wide else parameters), *settings
        )
        # In place, since a view as a result would refuse what the user does to it in place.
        return (y.to(x.dtype) if wide else y).squeeze_(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        s, sq_norm, scale, *parameters, x, weight = ctx.saved_tensors
        settings = ctx.settings
        need_x, need_weight, need_sq_norm, need_scale, *needs = ctx.needs_input_grad[2:]
        directed = settings.law != NO_DIRECTION
        if weight is not None:
            grad = grad.unsqueeze(2)
            if s.dtype != x.dtype:  # forward went to float64
                x, weight, grad, parameters = x.to(s.dtype), weight.to(s.dtype), grad.to(s.dtype), _double(parameters)
            if torch.is_grad_enabled():
                s, sq_norm, scale = fused_linear.normalized_product(x, weight, directed)
        ds, d_sq_norm, d_scale, *found = _gradients(
            ctx.route, grad.contiguous(), s, sq_norm, scale, *parameters, settings, needs[3] or needs[4]
        )
        d_weight = None
        if weight is not None:
            ds = ds.squeeze(2)
            if need_weight:
                d_weight = fused_linear.weight_gradient(x, weight, scale, ds, d_scale)
            if need_x:
                ds = fused_linear.input_gradient(x, weight, ds, d_sq_norm if directed else None)
        d_parameters = [
            d if need and p is not None and d.shape == p.shape else None for d, need, p in zip(found, needs, parameters)
        ]
        return (
            None,
            None,
            ds if need_x else None,
            d_weight,
            d_sq_norm if need_sq_norm and d_sq_norm.shape == sq_norm.shape else None,
            d_scale if need_scale else None,
            *d_parameters,
            None,
            None,
        )


class DirectionNoiseBackward(torch.autograd.Function):
    """direction_noise_backward; its own gradients are those of the formula."""

    @staticmethod
    def forward(
        ctx: Any, route: Route, settings: DirectionSettings, slopes: bool, grad: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(grad, *tensors)
        ctx.settings, ctx.slopes = settings, slopes
        return tuple(route.run("direction_noise_backward", grad.device, grad, *tensors, *settings, slopes))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *tensors = ctx.saved_tensors
        return (None, None, None, *_second_order(grad, tensors, ctx.settings, ctx.slopes, gradients), None, None)


def _formula(settings: DirectionSettings, *tensors: Tensor | None) -> Tensor:
    """direction_noise by functions that autograd knows, for its ten tensors."""
    s, sq_norm, scale, *rest = tensors
    p = DirectionParameters(*rest)  # type: ignore[arg-type]  # None where the noise has none
    assert s is not None
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        drawn = variates(tuple(s.shape), p.constants, p.key, settings)
    formula: Any = reference.direction_formula
    return formula(s, sq_norm, scale, p, drawn, settings)


def _first_order(settings: DirectionSettings, slopes: bool, grad: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    """direction_noise_backward by functions that autograd knows, to any order and for every transform."""
    *inputs, constants, key = tensors
    empty = _fake_direction_noise_backward(grad, *tensors, *settings, slopes)
    wanted = [i for i, (x, d) in enumerate(zip(inputs, empty)) if x is not None and d.shape == x.shape]

    def function(*chosen: Tensor) -> Tensor:
        given = list(inputs)
        for i, x in zip(wanted, chosen):
            given[i] = x
        return _formula(settings, *given, constants, key)

    found = torch.func.vjp(function, *[inputs[i] for i in wanted])[1](grad)
    gradients = list(empty)
    for i, d in zip(wanted, found):
        gradients[i] = d
    return tuple(gradients)


def _second_order(
    grad: Tensor, tensors: list[Any], settings: DirectionSettings, slopes: bool, gradients: tuple[Any, ...]
) -> list[Any]:
    """Gradients of direction_noise_backward's results, summed against `gradients`, for grad and the eight tensors."""
    *inputs, constants, key = tensors
    present = [i for i, x in enumerate((grad, *inputs)) if x is not None]

    def function(*chosen: Tensor) -> tuple[Tensor, ...]:
        given: list[Any] = [None] * (1 + _DIFFERENTIABLE)
        for i, x in zip(present, chosen):
            given[i] = x
        return _first_order(settings, slopes, *given, constants, key)

    results, pull = torch.func.vjp(function, *[(grad, *inputs)[i] for i in present])[:2]
    weights = [
        torch.zeros_like(r) if w is None or w.shape != r.shape else w.to(r.dtype) for r, w in zip(results, gradients)
    ]
    found = dict(zip(present, pull(tuple(weights))))
    return [found.get(i) for i in range(1 + _DIFFERENTIABLE)]


def _gradients(route: Route, grad: Tensor, *tensors_settings_slopes: Any) -> tuple[Tensor, ...]:
    *tensors, settings, slopes = tensors_settings_slopes
    if route.operator:
        operator = torch.ops.nvrm_fast.direction_noise_backward.default
        return operator(grad, *tensors, *settings, slopes, backend=route.backend)
    if transformed():
        return _first_order(settings, slopes, grad, *tensors)
    if torch.is_grad_enabled():
        return DirectionNoiseBackward.apply(route, settings, slopes, grad, *tensors)
    return route.run("direction_noise_backward", grad.device, grad, *tensors, *settings, slopes)


set_autograd(
    "direction_noise",
    lambda route, s, *args: DirectionNoise.apply(
        route, DirectionSettings(*args[_TENSOR_COUNT - 1 :]), s, None, *args[: _TENSOR_COUNT - 1]
    ),
    lambda *args: _formula(DirectionSettings(*args[_TENSOR_COUNT:]), *args[:_TENSOR_COUNT]),
)
set_autograd(
    "direction_noise_backward",
    lambda route, grad, *args: DirectionNoiseBackward.apply(
        route, DirectionSettings(*args[_TENSOR_COUNT:-1]), args[-1], grad, *args[:_TENSOR_COUNT]
    ),
    lambda grad, *args: _first_order(DirectionSettings(*args[_TENSOR_COUNT:-1]), args[-1], grad, *args[:_TENSOR_COUNT]),
)


def direction_noise(
    s: Tensor,
    sq_norm: Tensor,
    scale: Tensor,
    parameters: DirectionParameters,
    settings: DirectionSettings,
    *,
    backend: str | None = None,
) -> Tensor:
    """Noisy activations of s's shape (outer, neurons, inner) and dtype; differentiable twice.

    See nvrm_fast/reference/direction_noise.py. backend: by default the fastest that has a kernel for the device. Raises
    ValueError or TypeError that names a bad argument.
    """
    s = s.contiguous()
    if torch.compiler.is_compiling():
        return torch.ops.nvrm_fast.direction_noise(s, sq_norm, scale, *parameters, *settings, backend=backend)
    if transformed():
        return _formula(settings, s, sq_norm, scale, *parameters)
    route = Route(False, registry.choose("direction_noise", s.device, backend))
    if torch.is_grad_enabled():
        return DirectionNoise.apply(route, settings, s, None, sq_norm, scale, *parameters)
    return route.run("direction_noise", s.device, s, sq_norm, scale, *parameters, *settings)


def dense_direction_noise(
    x: Tensor,
    weight: Tensor,
    parameters: DirectionParameters,
    settings: DirectionSettings,
    *,
    backend: str | None = None,
) -> Tensor:
    """direction_noise of a dense layer with its product and norms, as one differentiable function.

    x (examples, in), weight (neurons, in), of one dtype; returns (examples, neurons). Norms and the pass are in float32
    (float64 for float64), and the parameters come so. Not for torch.compile, which fuses the norms itself, nor inside
    torch.func's transforms or forward mode.
    """
    route = Route(False, registry.choose("direction_noise", x.device, backend))
    return DirectionNoise.apply(route, settings, x, weight, None, None, *parameters)
