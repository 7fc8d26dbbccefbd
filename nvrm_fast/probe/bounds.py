"""Generalization bounds for weights with noise on them: the paper's theorems as numbers.

Source: Z. Xie, F. He, S. Fu, I. Sato, D. Tao and M. Sugiyama, "Artificial Neural Variability for Deep Learning", 2021:
Lemma 2.1, Theorem 2.2 with eq. 15 and 16 (PAC-Bayes), Lemma B.1 and Theorem B.2 (mutual information).

Both rest on conditions that the paper leaves to its sources. Lemma 2.1 is McAllester's, for losses between 0 and 1;
Lemma B.1 is Xu and Raginsky's, whose sigma is 1/2 for such losses (Hoeffding's lemma). Cross entropy is neither bounded
nor sub-Gaussian in general: use `zero_one_loss`. For networks with more weights than examples both bounds are usually
vacuous, more than the largest loss there is; the results say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .variability import NeuralVariability

Weights = nn.Module | Iterable[Tensor]


def kl_to_prior(weights: Weights, b: float, sigma: float, start: Weights | None = None) -> float:
    """KL(Q_nv || P) of eq. 15 in nats: sum_i [log(sigma / b) + (b^2 + theta_i^2) / (2 sigma^2) - 1/2].

    Args:
        weights: theta, a model or tensors.
        b: standard deviation of the noise, Q_nv = N(theta, b^2 I).
        sigma: standard deviation of the prior, P = N(0, sigma^2 I) of Assumption 1. Chosen before the data are seen.
        start: center of the prior in the place of 0, such as the weights at the start of training: it may be random,
            but must not depend on the data.

    Raises:
        ValueError: for b or sigma that are not positive, or a start of other shapes.
    """
    _check_positive(b=b, sigma=sigma)
    return _kl(squared_distance(weights, start), weight_count(weights), b, sigma)


def _kl(distance: float, count: int, b: float, sigma: float) -> float:
    return count * (math.log(sigma / b) + b * b / (2 * sigma * sigma) - 0.5) + distance / (2 * sigma * sigma)


def weight_count(weights: Weights) -> int:
    """N, how many weights there are."""
    return sum(value.numel() for value in _tensors(weights))


def squared_distance(weights: Weights, start: Weights | None = None) -> float:
    """|theta - start|^2 summed in float64; without a start |theta|^2.

    Raises:
        ValueError: for a start of other shapes.
    """
    own = _tensors(weights)
    if start is None:
        return sum(float(value.double().square().sum()) for value in own)
    other = _tensors(start)
    if [value.shape for value in own] != [value.shape for value in other]:
        raise ValueError("start has weights of other shapes: give the same model's as it was before training")
    return sum(float((a.double() - b.double().to(a.device)).square().sum()) for a, b in zip(own, other))


@dataclass(frozen=True)
class PacBayesBound:
    """Theorem 2.2's right side and its parts; all in units of the loss but for kl, in nats."""

    empirical_loss: float  # L(theta*, S)
    delta: float
    kl: float
    complexity: float  # 4 sqrt((KL + ln(2 m / Delta)) / m)
    b: float
    sigma: float
    examples: int  # m
    failure_probability: float  # Delta
    largest_loss: float

    @property
    def bound(self) -> float:
        """On the population risk L(Q_nv) of the weights with noise on them."""
        return self.empirical_loss + self.complexity + self.delta

    @property
    def vacuous(self) -> bool:
        """Whether it says no more than that a loss is at most the largest one."""
        return self.bound >= self.largest_loss


def pac_bayes_bound(
    weights: Weights,
    variability: NeuralVariability,
    *,
    sigma: float,
    failure_probability: float = 0.05,
    start: Weights | None = None,
    largest_loss: float = 1.0,
) -> PacBayesBound:
    """Theorem 2.2: L(Q_nv) <= L(theta, S) + 4 sqrt((KL(Q_nv || P) + ln(2 m / Delta)) / m) + delta.

    With probability at least 1 - Delta over the training set, for all b and theta at once (Q may depend on the data, so
    b may be chosen by the bound), but for one sigma. delta enters by the upper end of its interval, which has its own
    confidence: together they fail with at most Delta + (1 - confidence) for one b.

    Args:
        weights: theta, a model or tensors: all weights that depend on the data, and the noise was on all of them.
        variability: `neural_variability` on all m training examples with a loss between 0 and `largest_loss`, such as
            `zero_one_loss`, and Gaussian noise.
        sigma, start: of the prior, as `kl_to_prior` takes them.
        failure_probability: Delta.
        largest_loss: what the loss cannot exceed. The theorem is McAllester's for losses up to 1; others are scaled.

    Raises:
        ValueError: for a value out of range, or noise that is not Gaussian.
    """
    if variability.distribution != "gaussian":
        raise ValueError(f"Theorem 2.2 is for gaussian noise, variability has {variability.distribution}")
    m = variability.examples
    _check_positive(largest_loss=largest_loss)
    if not 0 < failure_probability < 1:
        raise ValueError(f"failure_probability must be between 0 and 1, got {failure_probability}")
    kl = kl_to_prior(weights, variability.b, sigma, start)
    complexity = 4 * largest_loss * math.sqrt((kl + math.log(2 * m / failure_probability)) / m)
    return PacBayesBound(
        variability.clean_loss,
        variability.delta_interval[1],
        kl,
        complexity,
        variability.b,
        sigma,
        m,
        failure_probability,
        largest_loss,
    )


def information_bound(squared_distances: float | Sequence[float], count: int, b: float) -> float:
    """An upper bound on I(theta + eps; S) in nats: N / 2 log(1 + E|theta - c|^2 / (N b^2)) for any fixed center c.

    The mutual information itself cannot be had from training runs. This bound needs Gaussian noise that is independent
    of data and weights, and nothing else. Two ways to it:

    - S -> theta -> theta + eps is a Markov chain, so I(theta + eps; S) <= I(theta + eps; theta), and that is at most
      what a Gaussian channel of noise b^2 carries in N uses at total power E|theta - E theta|^2 <= E|theta - c|^2.
    - Eq. 1 with P = N(c, s^2 I): I(theta + eps; S) <= E KL(Q_nv || P). (Eq. 1's equality holds only where P is the
      marginal distribution of theta + eps.) The best s^2 is b^2 + E|theta - c|^2 / N, and gives the same number.

    c may be the weights at the start of training, random as they are: they are independent of S, so that
    I(theta + eps; S) <= I(theta + eps; S | start).

    Args:
        squared_distances: |theta - c|^2 of one run or of several, each with training data of its own, for the mean. It
            is an estimate of the expectation, the better the more runs.
        count: N, how many weights.
        b: standard deviation of the noise.

    Raises:
        ValueError: for a value out of range.
    """
    distances = [squared_distances] if isinstance(squared_distances, (int, float)) else list(squared_distances)
    _check_positive(b=b, count=count)
    if not distances or not all(math.isfinite(distance) and distance >= 0 for distance in distances):
        raise ValueError(f"squared_distances must be one number or more, none negative; got {distances}")
    return count / 2 * math.log1p(sum(distances) / len(distances) / count / b**2)


@dataclass(frozen=True)
class InformationBound:
    """Theorem B.2's right side and its parts; in units of the loss but for information, in nats."""

    information: float  # the bound on I(theta + eps; S)
    gap: float  # sqrt(2 sigma^2 I / m) of Lemma B.1
    delta: float
    b: float
    examples: int  # m
    largest_loss: float

    @property
    def bound(self) -> float:
        """On E[L(theta + eps, fresh example) - L(theta, S)]."""
        return self.gap + self.delta

    @property
    def vacuous(self) -> bool:
        """Whether a gap between losses cannot be larger anyway."""
        return self.bound >= self.largest_loss


def mutual_information_bound(
    squared_distances: float | Sequence[float],
    count: int,
    *,
    b: float,
    examples: int,
    delta: float,
    largest_loss: float = 1.0,
) -> InformationBound:
    """Theorem B.2: E[L(theta + eps, fresh example) - L(theta, S)] <= sqrt(2 sigma^2 I(theta + eps; S) / m) + delta.

    In expectation over training sets and training. I is bounded by `information_bound`. sigma is half the largest
    loss, as Hoeffding's lemma has it for losses between 0 and that.

    Args:
        squared_distances, count, b: as `information_bound` takes them.
        examples: m, size of the training set.
        delta: of Definition 1 for this loss and b, such as the upper end of `NeuralVariability.delta_interval`; of
            several runs their mean.
        largest_loss: what the loss cannot exceed.

    Raises:
        ValueError: for a value out of range.
    """
    _check_positive(examples=examples, largest_loss=largest_loss)
    if not delta >= 0:
        raise ValueError(f"delta must be 0 or more, got {delta}")
    information = information_bound(squared_distances, count, b)
    gap = math.sqrt(2 * (largest_loss / 2) ** 2 * information / examples)
    return InformationBound(information, gap, float(delta), b, examples, largest_loss)


def _tensors(weights: Weights) -> list[Tensor]:
    given = weights.parameters() if isinstance(weights, nn.Module) else weights
    tensors = [value.detach() for value in given]
    if not tensors:
        raise ValueError("there are no weights: give a model with parameters, or tensors")
    return tensors


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and more than 0, got {value}")
