"""`NoiseInjection`: a node that adds trainable noise to the pre-activations of any layer of any model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nvrm_fast.contract.distributions import distribution_code
from nvrm_fast.contract.seeds import check_integer
from nvrm_fast.contract.streams import stream_of_name

from .add_noise import Draw, add_drawn_noise, add_shift, draw_noise
from .example_noise import drawn_key, key_of_seed

#: The parameter that the chosen layer gets: `model.fc1.noise_injection_weight`.
PARAMETER = "noise_injection_weight"
#: "redrawn": new values at every forward pass; "fixed": example k has the same values for ever.
KINDS = ("redrawn", "fixed")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class NoiseInjection:
    """Adds W_NI * eps to what a layer returns: z -> z + W_NI eps, with eps ~ N(0, sigma^2) for each example.

    The model's code stays as it is: the layer gets the parameter `noise_injection_weight` of shape (nodes, features)
    and a forward hook. So the optimizer made afterwards trains it, `state_dict` holds it, and `remove()` takes both
    away. An optimizer that is there already needs `optimizer.add_param_group({"params": injection.parameters()})`.
    In evaluation mode, and inside `with injection.off():`, the node's output is 0. No noise is stored: backward
    recomputes it from the key (and, for fixed noise, from the examples' indices).

        injection = NoiseInjection(model, "fc1", sigma=3.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        ...                                                    # train as ever
        injection.remove()

    An example is one entry of the output's first dimension. A convolution has one weight a channel, and other layers
    one a feature of the last dimension: an example's noise is the same at all its positions.

    Args:
        model: any module.
        layer: name of a sub-module, as `model.named_modules()` lists it, that returns one tensor.
        sigma: standard deviation of eps (for "uniform" and "laplace": the distribution's scale b, see
            `nvrm_fast.noise`). The attribute may be changed between steps.
        nodes: how many independent nodes, each with its own weights.
        kind: "redrawn": a new eps at every forward pass; its key is one 64-bit draw from torch's generator for the
            device, as with dropout. "fixed": eps is a function of the seed and the example's index, which
            `with injection.examples(indices):` supplies; torch's generators are not touched.
        distribution: "gaussian", "uniform", "laplace" or "rademacher".
        seed: 64 bits, for "fixed" only. Layers of different names get different noise at one seed.
        weight_std: standard deviation of the initial W_NI; 1 / sqrt(fan-in of the layer) by default, as in the paper.
        features: length of the feature dimension; needed for layers other than linear and convolutional ones.
        dim: the output's feature dimension; 1 for convolutions, else the last.

    Raises:
        KeyError: no such layer. ValueError, TypeError: an argument out of its range, named; a layer that has an
            injection already. While training: RuntimeError if fixed noise is asked for without indices, ValueError if
            indices or output do not fit.

    Source: Levi et al. 2022, "Noise injection as a probe of deep learning dynamics", sections 1 and 2, appendix B.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        sigma: float,
        *,
        nodes: int = 1,
        kind: str = "redrawn",
        distribution: str = "gaussian",
        seed: int = 0,
        weight_std: float | None = None,
        features: int | None = None,
        dim: int | None = None,
    ) -> None:
        modules = dict(model.named_modules())
        if layer not in modules:
            names = ", ".join(repr(name) for name in modules if name) or "none: the model has no sub-modules"
            raise KeyError(f"layer {layer!r} is not in the model; its layers: {names}")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
        if not nodes >= 1:
            raise ValueError(f"nodes must be 1 or more, got {nodes}")
        target = modules[layer]
        if hasattr(target, PARAMETER):
            raise ValueError(f"layer {layer!r} has a noise injection already; give it more nodes, or remove() it first")
        self.name, self.kind, self.nodes = layer, kind, nodes
        self.sigma = sigma
        self.features, self.dim, fan_in = _shape_of(target, layer, features, dim)
        self._distribution = distribution_code(distribution)
        self._key = key_of_seed(check_integer(seed, 64, "seed"))
        # Not the parameter's own name: an optimizer's weight noise may use that stream.
        self._stream = stream_of_name(f"{layer}.noise_injection")
        self._layer = target
        self._off = False
        self._examples: Tensor | None = None
        self._given: Tensor | None = None
        self._shift: Tensor | None = None
        std = 1 / math.sqrt(fan_in) if weight_std is None else weight_std
        like = next(model.parameters(), torch.empty(0))
        like = next((own for own in target.parameters() if own.is_floating_point()), like)
        # On the CPU first, so that one seed starts the same weights on every device.
        weight = (torch.randn(nodes, self.features) * std).to(like)
        target.register_parameter(PARAMETER, nn.Parameter(weight))
        self._hook = target.register_forward_hook(self._inject)

    @property
    def sigma(self) -> float:
        """The scale of eps."""
        return self._sigma

    @sigma.setter
    def sigma(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"sigma must be finite and not negative, got {value}")
        self._sigma = float(value)

    @property
    def weight(self) -> nn.Parameter:
        """W_NI, of shape (nodes, features)."""
        return getattr(self._layer, PARAMETER)

    @property
    def parameter_name(self) -> str:
        """W_NI's name in `model.named_parameters()` and in the state dict."""
        return f"{self.name}.{PARAMETER}" if self.name else PARAMETER

    def parameters(self) -> list[nn.Parameter]:
        """[W_NI], for an optimizer's parameter group."""
        return [self.weight]

    @property
    def variance(self) -> float:
        """<eps^2>: sigma^2 for "gaussian", sigma^2 / 3 for "uniform", 2 sigma^2 for "laplace",
        sigma^2 for "rademacher"."""
        return self._sigma**2 * (1.0, 1 / 3, 2.0, 1.0)[self._distribution]

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """eps for so many examples, (count, nodes), a function of the seed: for measurements."""
        key = key_of_seed(check_integer(seed, 64, "seed"), self.weight.device)
        return draw_noise(count, None, key, self._how())

    def remove(self) -> None:
        """Takes the hook and the parameter away; a second call does nothing."""
        self._hook.remove()
        if hasattr(self._layer, PARAMETER):
            delattr(self._layer, PARAMETER)

    def __enter__(self) -> NoiseInjection:
        return self

    def __exit__(self, *unused: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return (
            f"NoiseInjection(layer={self.name!r}, sigma={self.sigma:g}, nodes={self.nodes}, kind={self.kind!r}, "
            f"features={self.features})"
        )

    def off(self) -> contextlib.AbstractContextManager[None]:
        """A block in which the node's output is 0 also in training mode."""
        return self._with_attributes(_off=True)

    def examples(self, indices: Tensor) -> contextlib.AbstractContextManager[None]:
        """A block whose batches are the examples of these indices: int64 of shape (N,), for fixed noise.

        Raises TypeError or ValueError for another dtype or shape, or a negative index.
        """
        if indices.dtype != torch.int64:
            raise TypeError(f"indices must be int64, got {indices.dtype}")
        if indices.dim() != 1:
            raise ValueError(f"indices must be of shape (N,), got {list(indices.shape)}")
        if indices.device.type == "cpu" and indices.numel() and int(indices.min()) < 0:
            raise ValueError(f"indices must not be negative, got {int(indices.min())}")
        return self._with_attributes(_examples=indices)

    def given(self, eps: Tensor) -> contextlib.AbstractContextManager[None]:
        """A block with exactly this noise, in training mode and in evaluation: eps of shape (N, nodes), sigma included.

        For what must see the noise from outside: derivatives, and `torch.func.vmap` over networks.
        """
        return self._with_attributes(_given=eps)

    def shifted(self, shift: Tensor) -> contextlib.AbstractContextManager[None]:
        """A block in which pre-activations move by `shift` of shape (N, features) and the node is silent.

        What the local gradient and Hessian of eq. 2 are derivatives in.
        """
        return self._with_attributes(_shift=shift)

    @contextlib.contextmanager
    def _with_attributes(self, **values: Any) -> Iterator[None]:
        before = {name: getattr(self, name) for name in values}
        self.__dict__.update(values)
        try:
            yield
        finally:
            self.__dict__.update(before)

    def _inject(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self._shift is not None:
            return add_shift(output, self._shift, self.dim)
        if self._given is not None:
            # From the layer and not from self: functional_call swaps it there.
            weight = getattr(layer, PARAMETER)
            return add_shift(output, self._given.to(weight.dtype) @ weight, self.dim)
        if self._off or not layer.training:
            return None
        self._check(output)
        key = self._key.to(output.device) if self.kind == "fixed" else drawn_key(output.device)
        examples = self._examples if self.kind == "fixed" else None
        return add_drawn_noise(output, getattr(layer, PARAMETER), examples, key, self._how())

    def _how(self) -> Draw:
        return Draw(self.nodes, self._sigma, self._stream, self._distribution, self.dim)

    def _check(self, output: Tensor) -> None:
        if not isinstance(output, Tensor):
            raise TypeError(f"layer {self.name!r} must return one tensor, got {type(output).__name__}")
        if output.dim() < 2 or output.shape[self.dim] != self.features:
            raise ValueError(
                f"layer {self.name!r} must return (examples, ...) with {self.features} features in dimension "
                f"{self.dim}, got {list(output.shape)}"
            )
        if self.kind == "fixed":
            if self._examples is None:
                raise RuntimeError(
                    f"fixed noise at layer {self.name!r} needs the examples' indices: "
                    "run the forward pass inside `with injection.examples(indices):`"
                )
            if len(self._examples) != len(output):
                raise ValueError(f"{len(self._examples)} indices do not fit a batch of {len(output)} examples")


def _shape_of(layer: nn.Module, name: str, features: int | None, dim: int | None) -> tuple[int, int, int]:
    """Features, feature dimension and fan-in of a layer's pre-activations."""
    if isinstance(layer, nn.Linear):
        known, place, fan_in = layer.out_features, -1, layer.in_features
    elif isinstance(layer, _CONVOLUTIONS):
        known, place = layer.out_channels, 1
        fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    elif features is None:
        raise ValueError(f"layer {name!r} is a {type(layer).__name__}: say how many features it returns (features=...)")
    else:
        known, place, fan_in = features, -1, features
    if features is not None and features != known:
        raise ValueError(f"features is {features}, but layer {name!r} returns {known}")
    return known, place if dim is None else dim, fan_in
