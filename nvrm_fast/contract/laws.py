"""Direction and magnitude noise: small immutable descriptions, free of tensors, and what every backend knows of a law.

Isotropic direction noise is a distribution of the angle by which a unit weight vector is turned. Each class below is
one law: its code in operator arguments, how much it needs, and the parameters that a user gives. What the law
computes stands once per language: nvrm_fast/reference/angles.py, nvrm_fast/triton/angles.py and
csrc/math/angle_law.h.

Source: thesis of P. Kirichenko (2018), section 3.2 (direction) and 3.3 (magnitude). alpha is a variance throughout,
sigma a standard deviation, as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

#: Codes of what is absent, and of the magnitudes: never renumber.
NO_DIRECTION, NO_MAGNITUDE, NORMAL, GAMMA = 0, 0, 1, 2


def check_positive(value: float, name: str) -> None:
    """Raises ValueError for a value that is not positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")


@dataclass(frozen=True)
class Direction:
    """A law by which unit weight vectors are turned; the subclasses say which."""

    #: Code in operator arguments: never renumber.
    code: ClassVar[int]
    #: How many numbers a neuron kernels need of the law's parameters (rows of `constants`).
    rows: ClassVar[int]
    #: How many of the law's parameters a gradient flows to, and how many variates an activation has.
    parameter_count: ClassVar[int]
    variate_count: ClassVar[int]
    #: Whether the noise is one Gaussian weight matrix, so that examples which share that share the angle too.
    angle_of_weights: ClassVar[bool] = True

    @property
    def ends(self) -> tuple[float, float]:
        """Between which the angle lies, where the law needs to know."""
        return -math.pi / 2, math.pi / 2

    def parameters(self) -> tuple[float | None, float | None]:
        """The law's parameters as the operators take them (nvrm_fast/reference/angles.py)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Projected(Direction):
    """N(0, alpha I) is added to the direction, which is then normalized again (equation 16)."""

    alpha: float

    code, rows, parameter_count, variate_count = 1, 1, 1, 2

    def __post_init__(self) -> None:
        check_positive(self.alpha, "alpha")

    def parameters(self) -> tuple[float | None, float | None]:
        return math.sqrt(self.alpha), None


@dataclass(frozen=True)
class Tangent(Projected):
    """N(0, alpha I) in the tangent space is added to the direction, which is then normalized again (equation 19)."""

    code, rows, parameter_count, variate_count = 2, 1, 1, 1


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

    code, rows, parameter_count, variate_count = 3, 9, 2, 1
    angle_of_weights = False

    def __post_init__(self) -> None:
        check_positive(self.sigma, "sigma")
        if not -math.pi / 2 <= self.low < self.high <= math.pi / 2:
            raise ValueError(f"low and high must be in order within [-pi/2, pi/2], got {self.low} and {self.high}")
        if not self.low <= self.mean <= self.high:
            raise ValueError(f"mean must be in [low, high] = [{self.low}, {self.high}], got {self.mean}")

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def parameters(self) -> tuple[float | None, float | None]:
        return self.mean, self.sigma


@dataclass(frozen=True)
class BetaRotation(Direction):
    """Rotation in a random plane by pi (theta - 1/2), theta from Beta(beta, beta): the stretched symmetric Beta."""

    beta: float

    code, rows, parameter_count, variate_count = 4, 1, 1, 2
    angle_of_weights = False

    def __post_init__(self) -> None:
        check_positive(self.beta, "beta")

    def parameters(self) -> tuple[float | None, float | None]:
        return self.beta, None


@dataclass(frozen=True)
class VonMisesFisher(Direction):
    """The von Mises-Fisher distribution about the direction, of concentration kappa >= 0 (0: uniform)."""

    kappa: float

    code, rows, parameter_count, variate_count = 5, 2, 0, 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.kappa) and self.kappa >= 0):
            raise ValueError(f"kappa must be finite and not negative, got {self.kappa}")

    def parameters(self) -> tuple[float | None, float | None]:
        return self.kappa, None


@dataclass(frozen=True)
class Magnitude:
    """Multiplicative noise of mean 1 and variance alpha on the length of a weight vector."""

    alpha: float

    #: Code in operator arguments: never renumber.
    code: ClassVar[int]

    def __post_init__(self) -> None:
        check_positive(self.alpha, "alpha")


@dataclass(frozen=True)
class NormalMagnitude(Magnitude):
    """N(1, alpha) (equation 24)."""

    code = NORMAL


@dataclass(frozen=True)
class GammaMagnitude(Magnitude):
    """The Gamma distribution with mean 1 and variance alpha: never changes a sign."""

    code = GAMMA


#: A new law takes a line here.
DIRECTIONS: dict[str, type[Direction]] = {
    "projected": Projected,
    "tangent": Tangent,
    "rotation": Rotation,
    "beta_rotation": BetaRotation,
    "von_mises_fisher": VonMisesFisher,
}
MAGNITUDES: dict[str, type[Magnitude]] = {"normal": NormalMagnitude, "gamma": GammaMagnitude}
#: The laws by their codes, which count from 1.
LAWS: dict[int, type[Direction]] = {law.code: law for law in DIRECTIONS.values()}
MAGNITUDE_CODES = (NO_MAGNITUDE, NORMAL, GAMMA)


def direction_code(direction: Direction | None) -> int:
    """The operators' code of a law, or of none."""
    return NO_DIRECTION if direction is None else direction.code


def magnitude_code(magnitude: Magnitude | None) -> int:
    """The operators' code of a magnitude noise, or of none."""
    return NO_MAGNITUDE if magnitude is None else magnitude.code


#: What nvrm_fast.nn hands on to users.
__all__ = [
    "DIRECTIONS",
    "MAGNITUDES",
    "BetaRotation",
    "Direction",
    "GammaMagnitude",
    "Magnitude",
    "NormalMagnitude",
    "Projected",
    "Rotation",
    "Tangent",
    "VonMisesFisher",
]
