"""Whole models to noisy layers and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from .base import NoisyModule
from .direction import DirectionConv1d, DirectionConv2d, DirectionConv3d, DirectionLinear, _DirectionConv
from .gaussian import (
    GaussianDropout,
    GaussianDropoutConv1d,
    GaussianDropoutConv2d,
    GaussianDropoutConv3d,
    GaussianDropoutLinear,
)
from .signal import SignalNoise
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


#: Attributes of a module that hold hooks of its calls.
_CALL_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
)  # fmt: skip
#: Hooks of its state_dict, which name parameters that the other layer may not have.
_STATE_HOOKS = (
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def _keep_settings(old: nn.Module, new: nn.Module) -> nn.Module:
    """Frozen parameters and hooks of the replaced layer. What a conversion adds is frozen with the weight."""
    weight = next((p for name, p in old.named_parameters() if name in ("weight", "weight_v")), None)
    bias = getattr(old, "bias", None)
    for name, p in new.named_parameters():
        of = bias if name.endswith("bias") and bias is not None else weight
        if of is not None:
            p.requires_grad_(of.requires_grad)
    for attribute in _CALL_HOOKS:
        setattr(new, attribute, copy.copy(getattr(old, attribute)))
    return new


def _check_convertible(name: str, layer: nn.Module, owners: dict[int, list[str]], keeps_weight: bool) -> None:
    """Raises ValueError for a layer whose conversion would lose something, with what to do."""
    what = f"layer {name!r} ({type(layer).__name__})" if name else f"the layer ({type(layer).__name__})"
    leave_out = "or leave it out by where="
    computed = [key for key in ("weight", "bias") if key not in layer._parameters]
    if computed:
        raise ValueError(
            f"{what} computes its {computed[0]} before each pass (torch.nn.utils.weight_norm, spectral_norm or prune), "
            "which its conversion would lose: remove that first (remove_weight_norm, remove_spectral_norm, "
            f"prune.remove), {leave_out}"
        )
    for key, p in layer._parameters.items():
        others = [] if p is None else [owner for owner in owners[id(p)] if owner != f"{name}.{key}".lstrip(".")]
        if others and not keeps_weight:
            raise ValueError(
                f"{what} shares its {key} with {', '.join(others)}, and its conversion would untie them: give it "
                f"a {key} of its own first, {leave_out}"
            )
    if any(getattr(layer, attribute, None) for attribute in _STATE_HOOKS):
        raise ValueError(
            f"{what} has state_dict hooks, which its conversion would lose: remove them first, {leave_out}"
        )


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """The names under which each parameter, by its id, stands in a model; a module that occurs twice counts once."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, p in module._parameters.items():
            if p is not None:
                found.setdefault(id(p), []).append(f"{name}.{key}".lstrip("."))
    return found


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; results of a forward pass that hooks left in modules are copied without their graph."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def _replace(model: nn.Module, converted: Callable[[str, nn.Module], nn.Module | None]) -> tuple[nn.Module, list[str]]:
    """A copy with what `converted` gives in the places of modules for which it gives something, and their names."""
    new = converted("", model)
    if new is not None:
        return _keep_settings(model, new), [""]
    model = _copied(model)
    made: dict[nn.Module, nn.Module] = {}  # a layer that occurs twice stays one layer
    names = []
    for name, parent in list(model.named_modules()):
        # Not named_children(), which leaves out the second occurrence.
        for child_name, child in list(parent._modules.items()):
            if child is None:
                continue
            new = made.get(child)
            if new is None:
                path = f"{name}.{child_name}".lstrip(".")
                new = converted(path, child)
                if new is not None:
                    names.append(path)
                    made[child] = _keep_settings(child, new)
            if new is not None:
                setattr(parent, child_name, new)
                if isinstance(parent, nn.TransformerEncoderLayer):
                    # Its fast path in eval() reads the weights of plain layers and calls none of them.
                    parent.activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and not module.layers[0].activation_relu_or_gelu:
            module.use_nested_tensor = False  # for that fast path
    return model, names


def _has_weights(module: nn.Module) -> bool:
    """Whether a module multiplies by weights of its own, as far as its parameters tell."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag, NoisyModule)):
        return False
    own = [p for p in module._parameters.values() if p is not None]
    if parametrize.is_parametrized(module):
        own += list(cast(nn.ModuleDict, module.parametrizations).parameters())
    return any(isinstance(p, UninitializedParameter) or p.dim() >= 2 for p in own)


def to_noisy(
    model: nn.Module, kind: str = "direction", *, where: Callable[[str, nn.Module], bool] | None = None, **noise: Any
) -> nn.Module:
    """A copy of a model whose nn.Linear and nn.ConvNd are noisy layers with the same mean weights.

    kind: "direction" (noise: direction, magnitude, sampling, normalize), "variational" (alpha, angle_mean, ...),
    "stochastic" (activation, initial_deviation) or "gaussian" (alpha). where: takes a layer's name and the layer and
    says whether to convert it.

    Kept: frozen parameters, hooks of calls, train and eval of each layer. A layer with weights that has no noisy kind
    (nn.LSTM, nn.MultiheadAttention, transposed convolutions, parametrized and lazy layers, subclasses) stays as it is,
    and a UserWarning names it, unless `where` leaves it out.

    Raises ValueError for another kind; for a model in which nothing was converted; and, by name, for a layer whose
    conversion would lose something: a weight that a hook computes (weight_norm, spectral_norm, prune), a parameter that
    it shares with another module (kind "gaussian" keeps that), hooks of its state_dict.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    chosen = (lambda name, layer: True) if where is None else where
    owners = _owners(model)
    left: list[str] = []
    inside: list[str] = []
    layers: set[nn.Module] = set()
    for name, module in model.named_modules():
        if type(module) in KINDS[kind]:
            if chosen(name, module):
                _check_convertible(name, module, owners, keeps_weight=kind == "gaussian")
                layers.add(module)
        elif _has_weights(module) and not name.startswith(tuple(inside)) and chosen(name, module):
            left.append(f"{name or 'the model'} ({type(module).__name__})")
            inside.append(f"{name}." if name else "")  # its parts are not named beside it
    # A layer that occurs twice has several names.
    wanted = {name for name, module in model.named_modules(remove_duplicate=False) if module in layers}
    if left and not wanted:
        raise ValueError(f"nothing was converted: there is no noisy layer of {', '.join(left)}")
    if not wanted:
        raise ValueError("nothing was converted: the model has no nn.Linear or nn.ConvNd, or where chose none")
    noisy, _ = _replace(model, lambda name, m: noisy_layer(m, kind, **noise) if name in wanted else None)
    if kind == "gaussian":
        _tie_again(model, noisy, owners)
    if left:
        warnings.warn(f"to_noisy left as they were, without noise: {', '.join(left)}", stacklevel=2)
    return noisy


def _tie_again(model: nn.Module, noisy: nn.Module, owners: dict[int, list[str]]) -> None:
    """Gives parameters that stood in several places of `model` to the same places of its noisy copy."""
    for names in owners.values():
        places = [name.rpartition(".") for name in names]
        shared = noisy.get_submodule(places[0][0])._parameters[places[0][2]]
        for path, _, key in places[1:]:
            noisy.get_submodule(path)._parameters[key] = shared


def _plain(name: str, module: nn.Module) -> nn.Module | None:
    if isinstance(module, DirectionLinear):
        return module.to_linear()
    if isinstance(module, Stochastic):
        return module.to_plain()
    if isinstance(module, _DirectionConv):
        return module.to_conv()
    if isinstance(module, (SignalNoise, GaussianDropout)):
        return nn.Identity().train(module.training)
    for plain, noisy in KINDS["gaussian"].items():
        if type(module) is noisy:
            return _gaussian_like(module, plain, {})
    if isinstance(module, NoisyModule):
        if not hasattr(module, "to_plain"):
            raise ValueError(
                f"to_plain knows no plain layer for {name or 'the model'} ({type(module).__name__}): give the class a "
                "method to_plain() that returns the layer of its mode mean"
            )
        return cast(Callable[[], nn.Module], module.to_plain)()
    return None


def to_plain(model: nn.Module) -> nn.Module:
    """A copy of a model with every noisy layer replaced by the plain layer of its mean (noise on signals: nn.Identity).

    Frozen parameters and hooks of calls are kept. A noisy layer of your own needs a method to_plain(). Raises
    ValueError for one that has none.
    """
    return _replace(model, _plain)[0]
