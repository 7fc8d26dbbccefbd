"""(b, delta)-neural variability of a model, and its accuracy against the noise on its weights.

Source: Z. Xie, F. He, S. Fu, I. Sato, D. Tao and M. Sugiyama, "Artificial Neural Variability for Deep Learning", 2021:
Definition 1 (regional flatness), eq. 9 (neural variable risk), Figures 1 and 8.

    from nvrm_fast.probe import accuracy_against_noise, neural_variability

    found = neural_variability(model.eval(), nn.functional.cross_entropy, (x, y), 0.01)
    print(found.delta, found.delta_interval)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nvrm_fast.contract.seeds import check_integer, check_number

from .intervals import check_confidence, interval_of_mean
from .perturbed import Data, Draw, Measure, measure


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of examples whose largest output, (N, classes), is at the target, (N,) int64."""
    return (outputs.argmax(1) == targets).double().mean()


def zero_one_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 - accuracy: the loss between 0 and 1 for which the bounds are theorems."""
    return 1 - accuracy(outputs, targets)


@dataclass(frozen=True)
class NeuralVariability:
    """What Definition 1 needs at one b. The intervals are Student's t over `units` independent means."""

    b: float
    clean_loss: float  # L(theta, S)
    losses: Tensor  # float64 (samples,): L(theta + eps, S); antithetic pairs are neighbors
    difference: float  # mean of losses - clean_loss; inf where a loss is not finite
    interval: tuple[float, float]  # of the difference
    confidence: float
    distribution: str
    antithetic: bool
    seed: int
    examples: int
    vectorized: bool  # False: the model could not be run by vmap

    @property
    def samples(self) -> int:
        """How many perturbed models."""
        return len(self.losses)

    @property
    def units(self) -> int:
        """Independent means behind the interval: samples, or pairs of them."""
        return self.samples // 2 if self.antithetic else self.samples

    @property
    def risk(self) -> float:
        """L_NV of eq. 9, the mean loss under noise."""
        return self.clean_loss + self.difference

    @property
    def delta(self) -> float:
        """The least delta of Definition 1: |difference|, an estimate."""
        return abs(self.difference)

    @property
    def delta_interval(self) -> tuple[float, float]:
        """Between which delta lies; its upper end is what a bound may use."""
        low, high = self.interval
        return max(low, -high, 0.0), max(-low, high)

    def __str__(self) -> str:
        low, high = self.delta_interval
        return (
            f"({self.b:g}, {self.delta:.4g})-neural variability: delta in [{low:.4g}, {high:.4g}] at "
            f"{100 * self.confidence:g} %, {self.samples} samples"
        )


def neural_variability(
    model: nn.Module,
    loss: Measure,
    data: Data,
    b: float,
    *,
    samples: int = 64,
    seed: int = 0,
    distribution: str = "gaussian",
    confidence: float = 0.95,
    antithetic: bool = False,
    parameters: Iterable[str] | None = None,
    batch_size: int = 256,
    at_once: int | None = None,
    vectorized: bool | None = None,
) -> NeuralVariability:
    """delta of Definition 1, |E L(theta + eps, S) - L(theta, S)|, with a confidence interval.

    Args:
        model: left as it is, bit for bit, and run in the mode it is in: call `model.eval()` first, unless the noise of
            dropout is to be part of the loss. If an optimizer's noise is on its weights, call this within
            `optimizer.denoised()`.
        loss: maps outputs and targets to the mean over the batch.
        data: (inputs, targets), or batches of them; see `perturbed.measure`.
        b: scale of the noise, more than 0; for "gaussian" its standard deviation.
        samples: perturbed models; 2 or more.
        seed: of the noise, 64 bits: sample k is the noise contract's step k. Results do not depend on `batch_size` and
            `at_once` but for rounding.
        distribution: "gaussian", which is Definition 1's, "uniform" on (-b, b), "laplace" or "rademacher".
        confidence: of the interval, such as 0.95. It accounts for the samples of noise and not for those of the data:
            Definition 1 speaks of the training set as it is.
        antithetic: samples in pairs theta + eps, theta - eps, whose mean has no odd part of the loss, so that a slope
            costs no precision. Where the loss has none, pairs are merely half as many independent values and the
            interval up to 1.4 times as wide. Samples must then be even, and 4 or more.
        parameters, batch_size, at_once, vectorized: as `perturbed.measure` takes them.

    Raises:
        ValueError: for a value out of range. What `perturbed.measure` raises.
    """
    return neural_variabilities(
        model,
        {"loss": loss},
        data,
        [b],
        samples=samples,
        seed=seed,
        distribution=distribution,
        confidence=confidence,
        antithetic=antithetic,
        parameters=parameters,
        batch_size=batch_size,
        at_once=at_once,
        vectorized=vectorized,
    )["loss"][0]


def neural_variabilities(
    model: nn.Module,
    losses: Mapping[str, Measure],
    data: Data,
    scales: Sequence[float],
    *,
    samples: int = 64,
    seed: int = 0,
    distribution: str = "gaussian",
    confidence: float = 0.95,
    antithetic: bool = False,
    parameters: Iterable[str] | None = None,
    batch_size: int = 256,
    at_once: int | None = None,
    vectorized: bool | None = None,
) -> dict[str, list[NeuralVariability]]:
    """`neural_variability` of several losses at several b, each perturbed model being run once for all losses.

    Args:
        losses: by names of your own.
        scales: values of b. All have the same unit noise; each interval holds by itself, not all of them together.

    The other arguments are those of `neural_variability`.

    Returns:
        For each name one result a scale.

    Raises:
        ValueError: for a value out of range, no loss or no scale. What `perturbed.measure` raises.
    """
    scales = _checked_scales("b", scales, least=math.ulp(0.0))
    check_confidence(confidence)
    if not losses:
        raise ValueError("losses has no loss: give one or more")
    if check_integer(samples, 63, "samples") < 2:
        raise ValueError(f"samples must be 2 or more, got {samples}")
    if antithetic and (samples % 2 or samples < 4):
        raise ValueError(f"samples must be even and 4 or more where antithetic is true, got {samples}")
    if antithetic:
        draws = [Draw(k // 2, -b if k % 2 else b) for b in scales for k in range(samples)]
    else:
        draws = [Draw(k, b) for b in scales for k in range(samples)]
    # The clean model is one more copy, so that it is rounded as the others are.
    found = measure(
        model,
        list(losses.values()),
        data,
        [Draw(0, 0.0), *draws],
        seed=seed,
        distribution=distribution,
        parameters=parameters,
        batch_size=batch_size,
        at_once=at_once,
        vectorized=vectorized,
    )
    results: dict[str, list[NeuralVariability]] = {}
    for name, column in zip(losses, found.values.T):
        clean, results[name] = float(column[0]), []
        for b, perturbed in zip(scales, column[1:].view(len(scales), samples)):
            differences = perturbed - clean
            units = differences.view(-1, 2).mean(1) if antithetic else differences
            difference, low, high = interval_of_mean(units, confidence)
            result = NeuralVariability(
                b,
                clean,
                perturbed,
                difference,
                (low, high),
                confidence,
                distribution,
                antithetic,
                seed,
                found.examples,
                found.vectorized,
            )
            results[name].append(result)
    return results


@dataclass(frozen=True)
class NoiseCurve:
    """A measure, such as the accuracy, of one model against the scale of the noise on its weights."""

    scales: tuple[float, ...]
    values: Tensor  # float64 (scales, samples)
    clean: float  # without noise
    vectorized: bool

    @property
    def mean(self) -> Tensor:
        """Mean over the samples: float64 (scales,)."""
        return self.values.mean(1)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation over the samples, float64 (scales,): how much one perturbed model differs from another."""
        return self.values.std(1, correction=min(1, self.values.shape[1] - 1))


def accuracy_against_noise(
    model: nn.Module,
    data: Data,
    scales: Sequence[float],
    *,
    samples: int = 16,
    measured: Measure = accuracy,
    seed: int = 0,
    distribution: str = "gaussian",
    parameters: Iterable[str] | None = None,
    batch_size: int = 256,
    at_once: int | None = None,
    vectorized: bool | None = None,
) -> NoiseCurve:
    """The curve of Figures 1 and 8: accuracy of theta + eps against the scale of eps.

    Args:
        model, data, seed, distribution: as `neural_variability` takes them.
        scales: of the noise, none negative. All have the same unit noise, so that the curve is as smooth as the model.
        samples: perturbed models a scale, 1 or more.
        measured: maps outputs and targets to the mean over the batch; by default the share of right classes.
        parameters, batch_size, at_once, vectorized: as `perturbed.measure` takes them.

    Raises:
        ValueError: for a value out of range. What `perturbed.measure` raises.
    """
    scales = _checked_scales("scales", scales, least=0.0)
    if check_integer(samples, 63, "samples") < 1:
        raise ValueError(f"samples must be 1 or more, got {samples}")
    draws = [Draw(step, scale) for scale in scales for step in range(samples)]
    found = measure(
        model,
        [measured],
        data,
        [Draw(0, 0.0), *draws],
        seed=seed,
        distribution=distribution,
        parameters=parameters,
        batch_size=batch_size,
        at_once=at_once,
        vectorized=vectorized,
    )
    values = found.values[:, 0]
    return NoiseCurve(scales, values[1:].view(len(scales), samples), float(values[0]), found.vectorized)


def _checked_scales(name: str, scales: Sequence[float], least: float) -> tuple[float, ...]:
    if not len(scales):
        raise ValueError("scales has no scale: give one or more")
    for scale in scales:
        check_number(scale, name)
        if not (math.isfinite(scale) and scale >= least):
            raise ValueError(f"{name} must be finite and {'more than 0' if least else '0 or more'}, got {scale}")
    return tuple(float(scale) for scale in scales)
