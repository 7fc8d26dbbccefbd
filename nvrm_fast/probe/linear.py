"""The linear model of Levi et al. 2022 (section 3): two weights, one injection node, everything in closed form.

f(x, eps) = w1 (w0 x + w_noise eps) learns y = M x by SGD on L = 1/2 <(f - y)^2>, x ~ N(0, sigma_x^2),
eps ~ N(0, sigma^2). All functions take tensors of any shapes that broadcast: one entry is one network, so a phase
diagram is one call. Where the printed formulas do not hold as they stand, the functions say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nvrm_fast.noise import noise

#: What stands for the mini-batch: eq. 3's random Phi, true batches of x and eps, or averages only (eqs. 17 and 18).
FLUCTUATIONS = ("equation", "samples", "none")


@dataclass(frozen=True)
class LinearModel:
    """Constants of the linear model.

    Args:
        lr: eta.
        batch_size: |B|.
        target: M.
        sigma_x: standard deviation of the data.
    """

    lr: float = 0.01
    batch_size: int = 128
    target: float = 1.0
    sigma_x: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "batch_size", "sigma_x"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Weights:
    """w0 (input), w1 (output) and w_noise (injection): float64 tensors of shapes that broadcast."""

    w0: Tensor
    w1: Tensor
    noise: Tensor

    def __post_init__(self) -> None:
        for name in ("w0", "w1", "noise"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64))


@dataclass(frozen=True)
class Terms:
    """The coefficients of eq. 3. gradient_* leave out Phi, so they are standard deviations up to sign."""

    gradient_output: Tensor  # A / Phi
    gradient_noise: Tensor  # A~ / Phi
    decay_output: Tensor  # B
    decay_noise: Tensor  # B~
    learning: Tensor  # C


def terms(model: LinearModel, w: Weights) -> Terms:
    """A, A~, B, B~ and C of eq. 3 at some weights, with Phi = 1."""
    error = w.w1 * w.w0 - model.target
    random = model.lr * model.sigma_x / math.sqrt(model.batch_size)
    return Terms(
        gradient_output=random * w.noise * (2 * w.w1 * w.w0 - model.target),
        gradient_noise=random * w.w1 * error,
        decay_output=model.lr * w.noise**2,
        decay_noise=model.lr * w.w1**2,
        learning=model.lr * error * w.w0 * model.sigma_x**2,
    )


@dataclass(frozen=True)
class Boundaries:
    """Noise strengths sigma (not squared) between the phases, from the initial weights; tensors of their shape.

    The paper prints sigma_cat and sigma_div without a square (section 3), but B sigma^2 has no dimension only if
    2 / B is a variance, and the text goes on to compare sigma^2; so these are the square roots.
    """

    decoupled: Tensor  # sigma_dec = 2 |A~| / B~ at |Phi| = 1: below it the node walks at random
    catapult: Tensor  # sigma_cat = sqrt(min(2 / B, 2 / B~)): above it one of the weights overshoots
    divergent: Tensor  # sigma_div = sqrt(max(2 / B, 2 / B~)): as printed; above it both overshoot
    divergent_exact: Tensor  # sqrt(4 / (B + B~)): where the noise-dominated equations in truth stop to recover


def boundaries(model: LinearModel, start: Weights) -> Boundaries:
    """Phase boundaries of section 3.

    divergent_exact is not in the paper. Without A and C, eq. 3 is gradient descent on the product p = w1 w_noise
    towards 0 with curvature k = w1^2 + w_noise^2, and a step gives k' = k + eta sigma^2 p^2 (eta sigma^2 k - 4):
    the curvature falls, and the network recovers, only below eta sigma^2 k = 4 (Lewkowycz et al. 2020). It equals the
    printed boundary where |w1| = |w_noise|, and is far below it where they differ much.
    """
    at = terms(model, start)
    one, other = 2 / at.decay_output, 2 / at.decay_noise
    return Boundaries(
        decoupled=2 * at.gradient_noise.abs() / at.decay_noise,
        catapult=torch.minimum(one, other).sqrt(),
        divergent=torch.maximum(one, other).sqrt(),
        divergent_exact=(4 / (at.decay_output + at.decay_noise)).sqrt(),
    )


@dataclass(frozen=True)
class Trajectory:
    """Weights and losses before each step and after the last: float64 of shape (steps + 1, *networks)."""

    w0: Tensor
    w1: Tensor
    noise: Tensor
    loss: Tensor  # without noise, eq. 21
    noisy_loss: Tensor  # what training minimizes: eq. 21 + (w1 w_noise sigma)^2 / 2
    sigma: Tensor


def simulate(
    model: LinearModel,
    start: Weights,
    sigma: Tensor | float,
    steps: int,
    *,
    fluctuations: str = "equation",
    seed: int = 0,
) -> Trajectory:
    """Train every network of a batch of linear models at once.

    Args:
        model: the constants.
        start: initial weights.
        sigma: standard deviation of the injected noise; broadcasts with the weights.
        steps: SGD steps.
        fluctuations: "equation": eq. 3, the batch being one normal Phi a step, plus the equation for w0 that eq. 3
            leaves out (App. D, eq. 23 has it); "samples": SGD on true batches of x and eps; "none": Phi = 0.
        seed: 64 bits; every network of the batch has its own stretch of the noise stream.

    Returns:
        The trajectory, first dimension time. A network that diverges ends in inf or NaN and disturbs no other.

    Raises:
        ValueError: for fluctuations not listed or steps below 1.

    Source: Levi et al. 2022, eqs. 3 and 17 to 23.
    """
    if fluctuations not in FLUCTUATIONS:
        raise ValueError(f"fluctuations must be one of {', '.join(FLUCTUATIONS)}; got {fluctuations!r}")
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    w0, w1, v, strength = torch.broadcast_tensors(
        start.w0, start.w1, start.noise, torch.as_tensor(sigma, dtype=torch.float64)
    )
    history = [(w0, w1, v)]
    for step in range(steps):
        xx, xe, ee = _moments(model, strength, fluctuations, seed, step)
        error = w1 * w0 - model.target
        # The batch averages <r x> and <r eps> of the residual r = (w1 w0 - M) x + w1 w_noise eps.
        rx = error * xx + w1 * v * xe
        re = error * xe + w1 * v * ee
        w0, w1, v = w0 - model.lr * w1 * rx, w1 - model.lr * (w0 * rx + v * re), v - model.lr * w1 * re
        history.append((w0, w1, v))
    w0, w1, v = (torch.stack(series) for series in zip(*history))
    loss = ((w1 * w0 - model.target) * model.sigma_x) ** 2 / 2
    return Trajectory(w0, w1, v, loss, loss + (w1 * v * strength) ** 2 / 2, strength)


def _moments(
    model: LinearModel, sigma: Tensor, fluctuations: str, seed: int, step: int
) -> tuple[Tensor | float, Tensor, Tensor]:
    """<x^2>, <x eps> and <eps^2> of one batch, for every network."""
    if fluctuations == "samples":
        draws = noise(2 * model.batch_size * sigma.numel(), seed=seed, step=step).double()
        x, eps = draws.view(2, *sigma.shape, model.batch_size).unbind()
        x, eps = x * model.sigma_x, eps * sigma.unsqueeze(-1)
        return (x * x).mean(-1), (x * eps).mean(-1), (eps * eps).mean(-1)
    average = model.sigma_x**2, torch.zeros_like(sigma), sigma**2
    if fluctuations == "none":
        return average
    phi = noise(sigma.numel(), seed=seed, step=step).double().view(sigma.shape)
    return average[0], phi * model.sigma_x * sigma / math.sqrt(model.batch_size), average[2]


def decay_times(model: LinearModel, start: Weights, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    """tau_noise = 1 / (eta sigma^2 w1^2) and tau_loss = 1 / (2 eta sigma_x^2 (w0^2 + w1^2)) of section 4, in steps."""
    noise_rate = model.lr * torch.as_tensor(sigma, dtype=torch.float64) ** 2 * start.w1**2
    return 1 / noise_rate, 1 / (2 * model.lr * model.sigma_x**2 * (start.w0**2 + start.w1**2))


def decay_exponents(model: LinearModel, path: Trajectory) -> tuple[Tensor, Tensor]:
    """Eq. 4 (eqs. 27 and 26) along a trajectory: predicted ln(w_noise(t) / w_noise(0)) and ln(L(t) / L(0)).

    The integrals are sums over steps (trapezoids, since the continuous limit knows no order within a step). Both have
    the trajectory's shape and are 0 at its start. They leave out the noise's effect on the loss and, of order
    eta, what a finite step adds.
    """

    def integral(values: Tensor) -> Tensor:
        return model.lr * torch.cat([torch.zeros_like(values[:1]), torch.cumulative_trapezoid(values, dim=0)])

    return (
        -(path.sigma**2) * integral(path.w1**2),
        -2 * model.sigma_x**2 * integral(path.w0**2 + path.w1**2),
    )
