"""Distributions of the angle by which a noise turns a direction: all that isotropic direction noise is.

A law gives cos and sin of the angle for each activation and, pathwise, by how much the angle moves with the law's
parameters. Thesis of P. Kirichenko (2018): section 3.2 and appendix B; von Mises-Fisher after Wood (1994).
Codes and counts are in nvrm_fast/contract/laws.py. A new law: a class there, one here, one in csrc/math/angle_law.h
and a branch in nvrm_fast/triton/angles.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..contract import laws
from ..contract.layers import GammaConstants
from .activation import (
    Blocks,
    first_accepted,
    gamma_proposal,
    odd_24,
    radius_and_cosine,
    sphere_coordinate,
)
from .distribution import gaussian
from .special_functions import (
    exponential,
    fused_multiply_add,
    negative_ln,
    negative_ln_of,
    normal_quantile,
    rounded,
    sine_cosine_of_quarter_turns,
    square_root,
)

HALF_PI = math.pi / 2


class Law:
    """One law. `law_param_0` and `law_param_1` are its parameters, one value a neuron (None where it has fewer).

    constants   what kernels need of the parameters: float32, shape (rows, neurons), worked out in float64
    draw        the variates of each activation (float32, shape (outer, neurons, inner)): free of any parameter that
                a gradient flows to, except where a law has none
    angle       from variates and constants (shape (rows, 1, neurons, 1)): cos, sin, and d angle / d parameter
    formula     the same as angle from variates and parameters in any dtype, by functions that autograd knows
    """

    #: Code and counts of the law.
    law: type[laws.Direction]

    @staticmethod
    def constants(
        law_param_0: Tensor | None, law_param_1: Tensor | None, fan_in: int, low: float, high: float
    ) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def draw(blocks: Blocks, constants: Tensor, fan_in: int) -> tuple[Tensor, ...]:
        raise NotImplementedError

    @staticmethod
    def angle(variates: tuple[Tensor, ...], constants: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, tuple]:
        raise NotImplementedError

    @staticmethod
    def formula(variates, constants, law_param_0, law_param_1, low: float, high: float) -> tuple[Tensor, Tensor, tuple]:
        raise NotImplementedError


class Tangent(Law):
    """Gaussian noise N(0, alpha I) in the tangent space, projected (equation 19). law_param_0: sqrt(alpha)."""

    law = laws.Tangent

    @staticmethod
    def constants(law_param_0, law_param_1, fan_in, low, high):
        return law_param_0.detach().float()[None]

    @staticmethod
    def draw(blocks, constants, fan_in):
        """The square root of chi^2 with fan_in - 1 degrees of freedom."""
        if fan_in == 2:
            return (gaussian(blocks.words(0)[2])[0].abs(),)
        shape = GammaConstants.of_shape((fan_in - 1) / 2)

        def propose(trial: int) -> tuple[Tensor, Tensor]:
            word = blocks.words(trial)
            return gamma_proposal(word[2], word[3], shape)

        return (square_root(rounded(2 * shape.d, torch.float32) * first_accepted(propose)),)

    @staticmethod
    def angle(variates, constants, low, high):
        (chi,) = variates
        across = constants[0] * chi
        inverse = 1.0 / square_root(fused_multiply_add(across, across, torch.ones_like(across)))
        return inverse, across * inverse, (chi * (inverse * inverse),)

    @staticmethod
    def formula(variates, constants, law_param_0, law_param_1, low, high):
        across = law_param_0 * variates[0]
        inverse = (1 + across * across).rsqrt()
        return inverse, across * inverse, (variates[0] * inverse**2,)


class Projected(Law):
    """Gaussian noise N(0, alpha I), projected (equation 16). law_param_0: sqrt(alpha)."""

    law = laws.Projected
    constants = Tangent.constants

    @staticmethod
    def draw(blocks, constants, fan_in):
        """The noise along the direction, N(0, 1), and the length of the noise across it, as for Tangent."""
        return gaussian(blocks.words(0)[1])[1], *Tangent.draw(blocks, constants, fan_in)

    @staticmethod
    def angle(variates, constants, low, high):
        along, chi = variates
        across = constants[0] * chi
        forward = fused_multiply_add(constants[0], along, 1.0)
        inverse = 1.0 / square_root(fused_multiply_add(forward, forward, across * across))
        return forward * inverse, across * inverse, (chi * (inverse * inverse),)

    @staticmethod
    def formula(variates, constants, law_param_0, law_param_1, low, high):
        forward, across = 1 + law_param_0 * variates[0], law_param_0 * variates[1]
        inverse = (forward * forward + across * across).rsqrt()
        return forward * inverse, across * inverse, (variates[1] * inverse**2,)


class Rotation(Law):
    """An angle from the normal distribution N(law_param_0, law_param_1^2) truncated to [low, high] (equations 23 and
    32), by the inverse of its distribution function; law_param_0 within [low, high], both within [-pi/2, pi/2]."""

    law = laws.Rotation

    @staticmethod
    def constants(law_param_0, law_param_1, fan_in, low, high):
        mean, deviation = law_param_0.detach().double(), law_param_1.detach().double()
        a, b = (low - mean) / deviation, (high - mean) / deviation
        root = math.sqrt(0.5)
        return torch.stack(
            [
                mean,
                deviation,
                torch.erf(a * root),
                torch.erf(b * root),
                torch.erf(b * root) - torch.erf(a * root),
                torch.erfc(b * root),
                torch.erfc(-a * root),
                a,
                b,
            ]
        ).float()

    @staticmethod
    def draw(blocks, constants, fan_in):
        """An odd number n of 24 bits; n / 2^24 is the uniform gamma of equation 32."""
        return (odd_24(blocks.words(0)[2]).float(),)

    @staticmethod
    def angle(variates, constants, low, high):
        mean, deviation, e_low, e_high, mass, above, below, a, b = constants
        gamma = variates[0] * 2.0**-24
        rest = (2.0**24 - variates[0]) * 2.0**-24
        # e = 2 Phi - 1 and its distances from 1 and -1, each precise where it is small (appendix B warns of the ends).
        e = fused_multiply_add(e_high, gamma, e_low * rest)
        tails = fused_multiply_add(mass, rest, above) * fused_multiply_add(mass, gamma, below)
        x = normal_quantile(e, tails)
        angle = fused_multiply_add(deviation, x, mean)
        angle = torch.where(angle > rounded(low, torch.float32), angle, rounded(low, torch.float32))
        angle = torch.where(angle < rounded(high, torch.float32), angle, rounded(high, torch.float32))
        sine, cosine = sine_cosine_of_quarter_turns(rounded(1 / HALF_PI, torch.float32) * angle)
        at_low = rest * exponential(0.5 * ((a - x) * (a + x)))[0]
        at_high = gamma * exponential(0.5 * ((b - x) * (b + x)))[0]
        return cosine, sine, (1.0 - (at_low + at_high), x - fused_multiply_add(a, at_low, b * at_high))

    @staticmethod
    def formula(variates, constants, law_param_0, law_param_1, low, high):
        gamma = variates[0] * 2.0**-24
        root = math.sqrt(0.5)
        a, b = (low - law_param_0) / law_param_1, (high - law_param_0) / law_param_1
        x = torch.erfinv(torch.erf(a * root) * (1 - gamma) + torch.erf(b * root) * gamma) / root
        angle = law_param_0 + law_param_1 * x
        at_low, at_high = (1 - gamma) * torch.exp((x * x - a * a) / 2), gamma * torch.exp((x * x - b * b) / 2)
        return torch.cos(angle), torch.sin(angle), (1 - (at_low + at_high), x - (a * at_low + b * at_high))


class BetaRotation(Law):
    """An angle pi (theta - 1/2), theta from Beta(beta, beta): the stretched symmetric Beta of equation 21.

    2 theta - 1 is a ratio of a Student's t (Bailey, 1994; Devroye, 1996), exact for every law_param_0 = beta > 0.
    """

    law = laws.BetaRotation

    @staticmethod
    def constants(law_param_0, law_param_1, fan_in, low, high):
        return law_param_0.detach().double().reciprocal().float()[None]

    @staticmethod
    def draw(blocks, constants, fan_in):
        """-ln U and the cosine of a uniform angle."""
        return radius_and_cosine(blocks.words(0)[2], 1)

    @staticmethod
    def angle(variates, constants, low, high):
        ln, c = variates
        inverse = constants[0]
        v, m = exponential(ln * inverse)
        d = fused_multiply_add(m * c, c, v)
        stretched = c * square_root(m / d)
        sine, cosine = sine_cosine_of_quarter_turns(stretched)
        moved = (v * ln) * (inverse * inverse) / (d * d)
        return cosine, sine, ((rounded(-math.pi / 4, torch.float32) * c) * (square_root(d / m) * moved),)

    @staticmethod
    def formula(variates, constants, law_param_0, law_param_1, low, high):
        ln, c = variates
        m = -torch.expm1(-ln / law_param_0)
        v = 1 - m
        d = v + m * c * c
        angle = HALF_PI * c * (m / d).sqrt()
        slope = -math.pi / 4 * c * (d / m).sqrt() * v * ln / (law_param_0 * d) ** 2
        return torch.cos(angle), torch.sin(angle), (slope,)


class VonMisesFisher(Law):
    """The von Mises-Fisher distribution about the direction. law_param_0: the concentration kappa >= 0, no gradient.

    Wood's rejection (1994), rewritten: with x one coordinate of a uniform point on the sphere in fan_in dimensions the
    cosine proposed is (x0 + x) / (1 + x0 x), and (fan_in - 1) (p / (1 + p) - ln(1 + p)), p = x0 x, is its log weight.
    """

    law = laws.VonMisesFisher

    @staticmethod
    def constants(law_param_0, law_param_1, fan_in, low, high):
        kappa = law_param_0.detach().double()
        b = (fan_in - 1) / (2 * kappa + (4 * kappa**2 + (fan_in - 1) ** 2).sqrt())
        return torch.stack([(1 - b) / (1 + b), 2 * b.sqrt() / (1 + b)]).float()

    @staticmethod
    def draw(blocks, constants, fan_in):
        """The accepted coordinate x, which depends on kappa."""
        x0 = constants[0]

        def propose(trial: int) -> tuple[Tensor, Tensor]:
            word = blocks.words(trial)
            x = sphere_coordinate(word[2], fan_in)
            p = x0 * x
            o = 1.0 + p
            slack = float(fan_in - 1) * (p / o + negative_ln_of(o))
            return x, negative_ln(odd_24(word[3]), shift=24, factor=1) + slack > 0

        return (first_accepted(propose),)

    @staticmethod
    def angle(variates, constants, low, high):
        (x,) = variates
        x0, k = constants
        o = 1.0 + x0 * x
        across = fused_multiply_add(-x, x, torch.ones_like(x))
        across = torch.where(across > 0, across, 0.0)
        return (x0 + x) / o, k * square_root(across) / o, ()

    @staticmethod
    def formula(variates, constants, law_param_0, law_param_1, low, high):
        (x,) = variates
        x0, k = constants
        o = 1 + x0 * x
        return (x0 + x) / o, k * (1 - x * x).clamp_min(0).sqrt() / o, ()


ANGLES: dict[int, type[Law]] = {
    angle.law.code: angle for angle in (Projected, Tangent, Rotation, BetaRotation, VonMisesFisher)
}
