"""Direction and magnitude noise on the signal instead of the weights (thesis of P. Kirichenko, 2018, section 3.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..contract.laws import NORMAL, Direction, Magnitude, direction_code, magnitude_code
from ..contract.layers import DirectionSettings
from ..ops.direction import law_constants, turning_angle, variates
from ..ops.noise import gaussian_like
from ..ops.transforms import transformed
from .base import NoisyModule, wide


class SignalNoise(NoisyModule):
    """Turns and stretches each example's vector of activations: put it in front of a layer.

    x = |x| x_norm becomes magnitude |x| (cos x_norm + sin phi), phi uniform in the tangent space of x_norm. Every
    example draws its own, for one Gaussian an activation. An example that is zero everywhere stays so.

    Args:
        direction, magnitude: as for DirectionLinear.

    Shapes: (examples, ...) to the same; all dimensions but the first are one vector, of at least 2 elements. Raises
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
            raise ValueError(f"x must have shape (examples, ...), got {list(x.shape)}")
        key = self._key(x.device)
        if not torch.compiler.is_compiling() and transformed():  # torch.func has no checkpoints
            y = self._noisy(x.flatten(1), key)
        else:
            y = checkpoint(self._noisy, x.flatten(1), key, use_reentrant=False, preserve_rng_state=False)
        return y.view_as(x).to(x.dtype)

    def _noisy(self, x: Tensor, key: Tensor) -> Tensor:
        examples, length = x.shape
        dtype = wide(x.dtype)
        x = x.to(dtype)
        parameters = (None, None) if self.direction is None else self.direction.parameters()
        if self.direction is not None and length < 2:
            raise ValueError("an example of one activation has no direction to turn: it needs at least 2")
        full = lambda p: None if p is None else torch.full((1,), p, dtype=dtype, device=x.device)  # noqa: E731
        law_param_0, law_param_1 = (full(p) for p in parameters)
        constants = law_constants(self.direction, law_param_0, law_param_1, length, 1, x.device)
        low, high = (0.0, 0.0) if self.direction is None else self.direction.ends
        alpha = 0.0 if self.magnitude is None else self.magnitude.alpha
        # The angles' blocks are step 0 of the stream, the tangent directions are step 1.
        settings = DirectionSettings(
            self.stream,
            0,
            0,
            direction_code(self.direction),
            magnitude_code(self.magnitude),
            length,
            alpha,
            low,
            high,
            True,
        )
        drawn = variates((examples, 1, 1), constants, key, settings)
        y = x
        if self.direction is not None:
            # Squares of x over its largest element neither overflow nor vanish; as a constant it cancels.
            largest = x.detach().abs().amax(dim=1, keepdim=True)
            shorter = x / torch.where(largest > 0, largest, 1.0)
            norm = torch.where(largest > 0, shorter.square().sum(dim=1, keepdim=True), 1.0).sqrt()
            length_of_x = largest * norm
            noise = gaussian_like(x, key, self.stream, 1).to(dtype)
            unit = shorter / norm
            tangent = noise - (noise * unit).sum(dim=1, keepdim=True) * unit
            tangent = tangent / torch.linalg.vector_norm(tangent, dim=1, keepdim=True)
            cosine, sine = turning_angle(self.direction, drawn, constants, law_param_0, law_param_1, dtype)
            y = cosine.view(-1, 1) * x + sine.view(-1, 1) * length_of_x * tangent
        if self.magnitude is not None and drawn.xi is not None:
            xi = drawn.xi.to(dtype).view(-1, 1)
            y = y * (1 + math.sqrt(alpha) * xi if self.magnitude.code == NORMAL else xi)
        return y

    def extra_repr(self) -> str:
        return f"direction={self.direction}, magnitude={self.magnitude}"
