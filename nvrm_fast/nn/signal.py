"""Direction and magnitude noise on the signal instead of the weights (thesis of P. Kirichenko, 2018, section 3.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops import direction as layer_ops
from ..reference.angles import LAWS
from ..reference.local import Settings
from .modes import NoisyModule
from .noises import Direction, Magnitude, direction_code, law_constants, magnitude_code
from .weight_norm import wide


class SignalNoise(NoisyModule):
    """Turns and stretches each object's vector of activations: put it in front of a layer.

    x = |x| x_norm becomes magnitude |x| (cos x_norm + sin phi), phi uniform in the tangent space of x_norm. Every
    object draws its own, for one Gaussian an activation. An object that is zero everywhere stays so.

    Args:
        direction, magnitude: as for DirectionLinear.

    Shapes: (objects, ...) to the same; all dimensions but the first are one vector, of at least 2 elements. Raises
    ValueError for shorter ones.
    """

    def __init__(self, direction: Direction | None = None, magnitude: Magnitude | None = None) -> None:
        super().__init__()
        self.direction = direction
        self.magnitude = magnitude

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "mean" or (self.direction is None and self.magnitude is None):
            return x
        if x.dim() < 2:
            raise ValueError(f"x must have shape (objects, ...), got {list(x.shape)}")
        key = self._key(x.device)
        y = checkpoint(self._noisy, x.flatten(1), key, use_reentrant=False, preserve_rng_state=False)
        return y.view_as(x).to(x.dtype)

    def _noisy(self, x: Tensor, key: Tensor) -> Tensor:
        objects, length = x.shape
        dtype = wide(x.dtype)
        x = x.to(dtype)
        parameters = (None, None) if self.direction is None else self.direction.parameters()
        if self.direction is not None and length < 2:
            raise ValueError("an object of one activation has no direction to turn: it needs at least 2")
        full = lambda p: None if p is None else torch.full((1,), p, dtype=dtype, device=x.device)  # noqa: E731
        first, second = (full(p) for p in parameters)
        constants = law_constants(self.direction, first, second, length, 1, x.device)
        low, high = (0.0, 0.0) if self.direction is None else self.direction.ends
        alpha = 0.0 if self.magnitude is None else self.magnitude.alpha
        # The angles' blocks are step 0 of the stream, the tangent directions are step 1.
        settings = Settings(
            self.stream, 0, 0, direction_code(self.direction), magnitude_code(self.magnitude), length, alpha, low,
            high, True,
        )  # fmt: skip
        variates = layer_ops.variates((objects, 1, 1), constants, key, settings)
        y = x
        if self.direction is not None:
            length_of_x = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            noise = layer_ops.gaussian_like(x, key, self.stream, 1).to(dtype)
            unit = x / length_of_x.clamp_min(torch.finfo(dtype).tiny)
            tangent = noise - (noise * unit).sum(dim=1, keepdim=True) * unit
            tangent = tangent / torch.linalg.vector_norm(tangent, dim=1, keepdim=True)
            cosine, sine, _ = LAWS[self.direction.code].formula(
                tuple(v.to(dtype) for v in variates.law), constants.to(dtype)[:, None, :, None],
                None if first is None else first[None, :, None], None if second is None else second[None, :, None],
                low, high,
            )  # fmt: skip
            y = cosine.view(-1, 1) * x + sine.view(-1, 1) * length_of_x * tangent
        if self.magnitude is not None and variates.xi is not None:
            xi = variates.xi.to(dtype).view(-1, 1)
            y = y * (1 + math.sqrt(alpha) * xi if magnitude_code(self.magnitude) == 1 else xi)
        return y

    def extra_repr(self) -> str:
        return f"direction={self.direction}, magnitude={self.magnitude}"
