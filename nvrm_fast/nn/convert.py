"""Whole models to noisy layers and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .direction import DirectionConv1d, DirectionConv2d, DirectionConv3d, DirectionLinear, _DirectionConv
from .gaussian import GaussianDropoutConv1d, GaussianDropoutConv2d, GaussianDropoutConv3d, GaussianDropoutLinear
from .stochastic import Stochastic, StochasticConv1d, StochasticConv2d, StochasticConv3d, StochasticLinear
from .variational import VariationalConv1d, VariationalConv2d, VariationalConv3d, VariationalLinear

#: Plain layer -> its kinds: by exact class, so that subclasses with a forward of their own are left alone.
KINDS: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "direction": {
        nn.Linear: DirectionLinear,
        nn.Conv1d: DirectionConv1d,
        nn.Conv2d: DirectionConv2d,
        nn.Conv3d: DirectionConv3d,
    },
    "variational": {
        nn.Linear: VariationalLinear,
        nn.Conv1d: VariationalConv1d,
        nn.Conv2d: VariationalConv2d,
        nn.Conv3d: VariationalConv3d,
    },
    "stochastic": {
        nn.Linear: StochasticLinear,
        nn.Conv1d: StochasticConv1d,
        nn.Conv2d: StochasticConv2d,
        nn.Conv3d: StochasticConv3d,
    },
    "gaussian": {
        nn.Linear: GaussianDropoutLinear,
        nn.Conv1d: GaussianDropoutConv1d,
        nn.Conv2d: GaussianDropoutConv2d,
        nn.Conv3d: GaussianDropoutConv3d,
    },
}


def _gaussian_like(plain: nn.Module, kind: type[nn.Module], noise: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        if isinstance(plain, nn.Linear):
            new = kind(plain.in_features, plain.out_features, plain.bias is not None, **noise)
        else:
            new = kind(
                plain.in_channels,
                plain.out_channels,
                plain.kernel_size,
                plain.stride,
                plain.padding,
                plain.dilation,
                plain.groups,
                plain.bias is not None,
                plain.padding_mode,
                **noise,
            )
    new.weight, new.bias = copy.deepcopy(plain.weight), copy.deepcopy(plain.bias)
    return new.train(plain.training)


def noisy_layer(plain: nn.Module, kind: str, **noise: Any) -> nn.Module | None:
    """The noisy layer of one plain layer, with a copy of its weights; None for a module that has none."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    cls: Any = KINDS[kind].get(type(plain))
    if cls is None:
        return None
    if kind == "gaussian":
        return _gaussian_like(plain, cls, noise)
    return cls.from_linear(plain, **noise) if isinstance(plain, nn.Linear) else cls.from_conv(plain, **noise)


def _replace(model: nn.Module, converted: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    new = converted("", model)
    if new is not None:
        return new
    model = copy.deepcopy(model)
    made: dict[nn.Module, nn.Module] = {}  # a layer that occurs twice stays one layer
    for name, parent in list(model.named_modules()):
        # Not named_children(), which leaves out the second occurrence.
        for child_name, child in list(parent._modules.items()):
            if child is None:
                continue
            new = made.get(child)
            if new is None:
                new = converted(f"{name}.{child_name}".lstrip("."), child)
            if new is not None:
                made[child] = new
                setattr(parent, child_name, new)
    return model


def to_noisy(
    model: nn.Module, kind: str = "direction", *, where: Callable[[str, nn.Module], bool] | None = None, **noise: Any
) -> nn.Module:
    """A copy of a model whose nn.Linear and nn.ConvNd are noisy layers with the same mean weights.

    kind: "direction" (noise: direction, magnitude, sampling, normalize), "variational" (alpha, angle_mean, ...),
    "stochastic" (activation, initial_deviation) or "gaussian" (alpha). where: takes a layer's name and the layer and
    says whether to convert it. Raises ValueError for another kind.
    """
    chosen = (lambda name, layer: True) if where is None else where
    return _replace(model, lambda name, m: noisy_layer(m, kind, **noise) if chosen(name, m) else None)


def to_plain(model: nn.Module) -> nn.Module:
    """A copy of a model with every weight-normalised or stochastic layer replaced by the plain layer of its mean."""

    def converted(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, DirectionLinear):
            return module.to_linear()
        if isinstance(module, Stochastic):
            return module.to_plain()
        return module.to_conv() if isinstance(module, _DirectionConv) else None

    return _replace(model, converted)
