"""What noise a layer has: small immutable descriptions, free of tensors.

Thesis of P. Kirichenko (2018), section 3.2 (direction) and 3.3 (magnitude). alpha is a variance throughout, sigma a
standard deviation, as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..reference.angles import LAWS
from ..reference.local import GAMMA, NO_DIRECTION, NO_MAGNITUDE, NORMAL


def _check_positive(value: float, name: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")


@dataclass(frozen=True)
class Direction:
    """A law by which unit weight vectors are turned; the subclasses say which."""

    @property
    def code(self) -> int:
        raise NotImplementedError

    @property
    def ends(self) -> tuple[float, float]:
        """Between which the angle lies, where the law needs to know."""
        return -math.pi / 2, math.pi / 2

    def parameters(self) -> tuple[float | None, float | None]:
        """The law's parameters as the operators take them (reference/angles.py)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Projected(Direction):
    """N(0, alpha I) is added to the direction, which is then normalised again (equation 16)."""

    alpha: float

    def __post_init__(self) -> None:
        _check_positive(self.alpha, "alpha")

    @property
    def code(self) -> int:
        return 1

    def parameters(self) -> tuple[float | None, float | None]:
        return math.sqrt(self.alpha), None


@dataclass(frozen=True)
class Tangent(Projected):
    """N(0, alpha I) in the tangent space is added to the direction, which is then normalised again (equation 19)."""

    @property
    def code(self) -> int:
        return 2


@dataclass(frozen=True)
class Rotation(Direction):
    """Rotation in a random plane by a normal angle truncated to [low, high] (equations 20 to 23).

    sigma and mean are those of the normal distribution before it is truncated; mean must lie in [low, high], and both
    ends in [-pi/2, pi/2]. Raises ValueError otherwise.
    """

    sigma: float
    mean: float = 0.0
    low: float = -math.pi / 2
    high: float = math.pi / 2

    def __post_init__(self) -> None:
        _check_positive(self.sigma, "sigma")
        if not -math.pi / 2 <= self.low < self.high <= math.pi / 2:
            raise ValueError(f"low and high must be in order within [-pi/2, pi/2], got {self.low} and {self.high}")
        if not self.low <= self.mean <= self.high:
            raise ValueError(f"mean must be in [low, high] = [{self.low}, {self.high}], got {self.mean}")

    @property
    def code(self) -> int:
        return 3

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def parameters(self) -> tuple[float | None, float | None]:
        return self.mean, self.sigma


@dataclass(frozen=True)
class BetaRotation(Direction):
    """Rotation in a random plane by pi (theta - 1/2), theta from Beta(beta, beta): the stretched symmetric Beta."""

    beta: float

    def __post_init__(self) -> None:
        _check_positive(self.beta, "beta")

    @property
    def code(self) -> int:
        return 4

    def parameters(self) -> tuple[float | None, float | None]:
        return self.beta, None


@dataclass(frozen=True)
class VonMisesFisher(Direction):
    """The von Mises-Fisher distribution about the direction, of concentration kappa >= 0 (0: uniform)."""

    kappa: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.kappa) and self.kappa >= 0):
            raise ValueError(f"kappa must be finite and not negative, got {self.kappa}")

    @property
    def code(self) -> int:
        return 5

    def parameters(self) -> tuple[float | None, float | None]:
        return self.kappa, None


@dataclass(frozen=True)
class Magnitude:
    """Multiplicative noise of mean 1 and variance alpha on the length of a weight vector."""

    alpha: float

    def __post_init__(self) -> None:
        _check_positive(self.alpha, "alpha")

    @property
    def code(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class NormalMagnitude(Magnitude):
    """N(1, alpha) (equation 24)."""

    @property
    def code(self) -> int:
        return NORMAL


@dataclass(frozen=True)
class GammaMagnitude(Magnitude):
    """The Gamma distribution with mean 1 and variance alpha: never changes a sign."""

    @property
    def code(self) -> int:
        return GAMMA


DIRECTIONS: dict[str, type[Direction]] = {
    "projected": Projected,
    "tangent": Tangent,
    "rotation": Rotation,
    "beta_rotation": BetaRotation,
    "von_mises_fisher": VonMisesFisher,
}
MAGNITUDES: dict[str, type[Magnitude]] = {"normal": NormalMagnitude, "gamma": GammaMagnitude}


def direction_code(direction: Direction | None) -> int:
    return NO_DIRECTION if direction is None else direction.code


def magnitude_code(magnitude: Magnitude | None) -> int:
    return NO_MAGNITUDE if magnitude is None else magnitude.code


def law_constants(
    direction: Direction | None,
    first: Tensor | None,
    second: Tensor | None,
    fan_in: int,
    neurons: int,
    device: torch.device,
) -> Tensor:
    """What kernels need of a law's parameters: float32, shape (rows, neurons), on the device; no gradient."""
    if direction is None:
        return torch.zeros(0, neurons, dtype=torch.float32, device=device)
    with torch.no_grad():
        return LAWS[direction.code].constants(first, second, fan_in, *direction.ends).contiguous()
