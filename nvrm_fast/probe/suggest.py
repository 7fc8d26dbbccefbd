"""A start value of b without a sweep: the noise under which the loss grows by half.

import nvrm_fast

found = nvrm_fast.suggest_variability(
    model, nn.functional.cross_entropy, loader, warm_up=lambda weights: torch.optim.SGD(weights, lr=0.03, momentum=0.9)
)
optimizer = nvrm_fast.NVRMSGD(model.parameters(), lr=0.03, momentum=0.9, variability=found.variability)
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from nvrm_fast.contract.distributions import distribution_code
from nvrm_fast.contract.seeds import check_integer

from .perturbed import Data, Draw, Measure, measure

#: The grid over the root mean square of the weights: powers of the square root of two from 1/64 to 16.
GRID = tuple(2.0 ** (k / 2) for k in range(-12, 9))
#: So many limits above the clean loss the curve ends.
_FAR = 4.0
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Suggestion:
    """What `suggest_variability` found; printed it is a sentence.

    Attributes:
        variability: the suggested b, to two digits.
        relative: the same over the root mean square of the weights that were perturbed.
        variabilities: the values of b that were tried, rising; the curve ends where the loss is far above the limit.
        losses: float64, (variabilities, samples): mean loss over the examples under each draw of noise.
        clean_loss: without noise.
        limit: the increase of the loss that was allowed.
        noise, seed: distribution and seed of the noise.
        examples: how many the losses are means over.
        warm_up_steps: steps that the copy was trained for before; 0 without.
    """

    variability: float
    relative: float
    variabilities: tuple[float, ...]
    losses: Tensor
    clean_loss: float
    limit: float
    noise: str
    seed: int
    examples: int
    warm_up_steps: int

    @property
    def increases(self) -> tuple[float, ...]:
        """Mean loss under noise less clean loss, one a b; inf where a loss is not finite."""
        return tuple(_increase(losses, self.clean_loss) for losses in self.losses)

    def __str__(self) -> str:
        return (
            f"variability={self.variability:g} ({self.relative:.2g} of the weights' root mean square): {self.noise} "
            f"noise of that scale raises the loss from {self.clean_loss:.3g} by {self.limit:.3g} "
            f"({self.losses.shape[1]} draws, {self.examples} examples, after {self.warm_up_steps} steps)"
        )

    def plot(self, axes: Any = None) -> Any:
        """Draws the increase of the loss against b, each draw a point, the limit and the suggestion.

        axes: of matplotlib; None makes a figure. Returns the axes. Raises ModuleNotFoundError without matplotlib.
        """
        if axes is None:
            try:
                from matplotlib import pyplot
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("plot() needs matplotlib: pip install matplotlib") from error
            _, axes = pyplot.subplots(figsize=(5, 3.6), layout="constrained")
        draws = self.losses - self.clean_loss
        for k in range(draws.shape[1]):
            axes.plot(self.variabilities, draws[:, k], ".", color="#9a9a9a", markersize=4)
        axes.plot(self.variabilities, self.increases, color="#1f5fa8", label="mean increase of the loss")
        axes.axhline(self.limit, color="#c1440e", linestyle=":", label="limit")
        axes.axvline(self.variability, color="#c1440e", label=f"suggestion: b = {self.variability:g}")
        axes.set(xscale="log", xlabel="b", ylabel="loss under noise - clean loss", ylim=(None, _FAR * self.limit))
        axes.legend(fontsize=8)
        return axes


def suggest_variability(
    model: nn.Module,
    loss: Measure,
    data: Data,
    *,
    fraction: float = 0.5,
    increase: float | None = None,
    noise: str = "gaussian",
    samples: int = 4,
    examples: int = 512,
    seed: int = 0,
    variabilities: Sequence[float] | None = None,
    parameters: Iterable[str] | None = None,
    warm_up: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    warm_up_steps: int | None = None,
    batch_size: int = 64,
) -> Suggestion:
    """The largest b under which the loss grows by no more than a fraction of itself: a start value, not an optimum.

    Call it where the model has begun to learn, after half an epoch to two; or give `warm_up`, which trains a copy so
    far. The loss of an untrained network hardly reacts to noise that it will react to later (in the task below b then
    comes out at 0.07 to 0.09), and that of a network which has learned its data by heart is so small that half of it
    means nothing: give `increase` there.

    The rule was calibrated on one task, and half is what fitted: 4,000 MNIST images with 40 % of the labels flipped
    (asymmetric), SGD with lr 0.03, batches of 64. There the best absolute b of a sweep (0.005, 0.01, 0.02, 0.05, 0.1,
    0.2; 36 epochs) is 0.05 for the small convolutional network and for the MLP, and neither learns at 0.2, nor well at
    0.1. The rule gives, over three seeds, 0.053 to 0.061 and 0.046 to 0.050 after one epoch, 0.055 to 0.056 and 0.043
    to 0.049 after two, and 0.037 to 0.061 and 0.050 to 0.051 after half of one.
    Whether it holds for other data, networks and aims is not known: take it for the middle of a sweep over a factor of
    two on either side.

    Args:
        model: left as it is, bit for bit, and run in the mode it is in. If an optimizer's noise is on its weights, call
            this within `optimizer.denoised()`.
        loss: maps outputs and targets to the mean over the batch, positive unless `increase` is given.
        data: (inputs, targets), which are shuffled by the seed; or batches of them, such as a DataLoader, of which one
            pass is taken at most.
        fraction: of the clean loss by which the mean loss may grow.
        increase: how much it may grow, instead, in the loss's units.
        noise: the distribution, as for the optimizers; b is its scale.
        samples: draws of noise for each b, the same unit noise for all of them.
        examples: so many, or as many as there are (whole batches): the first ones.
        seed: of noise, order and warm-up; torch's generators are as they were afterwards.
        variabilities: values of b to try, rising; None: from 1/64 of the root mean square of the weights to 16 times
            that, in steps of the square root of two. The curve ends where the loss is far above the limit.
        parameters: names of those that are perturbed; None: all.
        warm_up: makes an optimizer of parameters; a copy of the model is trained by it, in training mode, and measured.
        warm_up_steps: how many steps; None: one pass over the data.
        batch_size: examples a step and a pass, where the data are two tensors.

    Raises:
        TypeError, ValueError: an argument of another kind or out of its range, named; a clean loss that is not finite
            or not positive; a loss that exceeds the limit at the smallest b or stays below it at the largest.
    """
    distribution_code(noise, "noise")
    _check(fraction, increase, samples, examples, variabilities, warm_up, warm_up_steps, batch_size)
    check_integer(seed, 64, "seed")
    batches = _batches(data, batch_size, seed)
    measured: list[Batch] = []
    while sum(len(targets) for _, targets in measured) < examples and (batch := next(batches, None)) is not None:
        measured.append(batch)
    if not measured:
        raise ValueError("data has no batches: an iterator that is used up has none")
    if isinstance(parameters, str):
        raise TypeError(f"parameters must be several names, got the string {parameters!r}: write [{parameters!r}]")
    names = None if parameters is None else list(parameters)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        steps = 0
        if warm_up is not None:
            first = itertools.chain(measured, batches)
            model, steps = _warmed_up(model, loss, itertools.islice(first, warm_up_steps), warm_up)

        def losses_of(scales: Sequence[float]) -> Tensor:
            draws = [Draw(k, scale) for k, scale in enumerate(scales, 1)]
            return measure(model, [loss], measured, draws, seed=seed, distribution=noise, parameters=names).values[:, 0]

        clean = float(losses_of([0.0])[0])
        if not math.isfinite(clean):
            raise ValueError(f"the clean loss is {clean}: the model has diverged, or the data are not finite")
        if increase is None and clean <= 0:
            raise ValueError(f"the clean loss is {clean}, of which no fraction can be taken: give increase")
        limit = fraction * clean if increase is None else increase
        size = _root_mean_square(model, names)
        if variabilities is None and not 0 < size < math.inf:
            raise ValueError(f"the weights' root mean square is {size}, which gives no scale: give variabilities")
        grid = [factor * size for factor in GRID] if variabilities is None else [float(b) for b in variabilities]
        rows: list[Tensor] = []
        for b in grid:
            rows.append(losses_of([b] * samples))
            if _increase(rows[-1], clean) > _FAR * limit:
                break
    found = _crossing(grid, [_increase(row, clean) for row in rows], limit)
    return Suggestion(
        variability=found,
        relative=found / size if size else math.inf,
        variabilities=tuple(grid[: len(rows)]),
        losses=torch.stack(rows),
        clean_loss=clean,
        limit=limit,
        noise=noise,
        seed=seed,
        examples=sum(len(targets) for _, targets in measured),
        warm_up_steps=steps,
    )


def _increase(losses: Tensor, clean: float) -> float:
    mean = float(losses.mean())
    return mean - clean if math.isfinite(mean) else math.inf


def _crossing(grid: Sequence[float], increases: Sequence[float], limit: float) -> float:
    """b where the increase first reaches the limit, on straight lines over ln b, to two digits."""
    over = next((i for i, increase in enumerate(increases) if increase > limit), None)
    if over is None:
        raise ValueError(
            f"the loss grows by no more than {max(increases):.3g} up to b = {grid[-1]:g}, less than the limit of "
            f"{limit:.3g}: give larger variabilities, or a smaller fraction or increase"
        )
    if over == 0:
        raise ValueError(
            f"the loss grows by {increases[0]:.3g} at b = {grid[0]:g} already, more than the limit of {limit:.3g}: "
            "give smaller variabilities, or a larger fraction or increase"
        )
    low, high = increases[over - 1 : over + 1]
    share = 0.0 if high == math.inf else (limit - low) / (high - low)
    return float(f"{grid[over - 1] * (grid[over] / grid[over - 1]) ** share:.2g}")


def _root_mean_square(model: nn.Module, names: list[str] | None) -> float:
    every = [
        p.detach().double() for name, p in model.named_parameters() if (names is None or name in names) and p.numel()
    ]
    count = sum(p.numel() for p in every)
    return math.sqrt(sum(float(p.square().sum()) for p in every) / count) if count else 0.0


def _warmed_up(
    model: nn.Module, loss: Measure, batches: Iterator[Batch], make: Callable[..., torch.optim.Optimizer]
) -> tuple[nn.Module, int]:
    """A copy in the modes of the model, trained on the batches, and the number of steps."""
    trained, steps = copy.deepcopy(model), 0
    modes = [module.training for module in trained.modules()]
    weights = [p for p in trained.parameters() if p.requires_grad]
    if not weights:
        raise ValueError("there is no parameter to warm up: none of the model's requires a gradient")
    device = weights[0].device
    with torch.enable_grad():
        optimizer = make(weights)
        trained.train()
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss(trained(inputs.to(device)), targets.to(device)).backward()
            optimizer.step()
            steps += 1
    if callable(denoise := getattr(optimizer, "denoise", None)):
        denoise()
    for module, mode in zip(trained.modules(), modes):
        module.training = mode
    return trained, steps


def _batches(data: Data, batch_size: int, seed: int) -> Iterator[Batch]:
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        inputs, targets = cast(Batch, data)
        if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
            raise ValueError(
                f"data has inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}: both "
                "need the examples first, as many of each"
            )
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed % 2**63)).to(inputs.device)
        return ((inputs[part], targets[part.to(targets.device)]) for part in order.split(batch_size) if len(part))
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise TypeError(f"data must be (inputs, targets) or batches of them, got {type(data).__name__}")
    return iter(cast(Iterable[Batch], data))


def _check(
    fraction: float,
    increase: float | None,
    samples: int,
    examples: int,
    variabilities: Sequence[float] | None,
    warm_up: Any,
    warm_up_steps: int | None,
    batch_size: int,
) -> None:
    for name, limit in (("fraction", fraction), ("increase", increase)):
        if limit is not None and not 0 < limit < math.inf:
            raise ValueError(f"{name} must be finite and more than 0, got {limit!r}")
    counts = {"samples": samples, "examples": examples, "batch_size": batch_size, "warm_up_steps": warm_up_steps}
    for name, count in counts.items():
        if count is not None and check_integer(count, 62, name) < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}")
    if warm_up is None and warm_up_steps is not None:
        raise ValueError("warm_up_steps without warm_up: give a function that makes an optimizer of parameters")
    if warm_up is not None and not callable(warm_up):
        raise TypeError(
            f"warm_up must be a function that makes an optimizer of parameters, got {type(warm_up).__name__}"
        )
    if variabilities is not None:
        values = [float(b) for b in variabilities]
        if len(values) < 2 or any(not 0 < b < math.inf for b in values) or sorted(set(values)) != values:
            raise ValueError(f"variabilities must be two or more numbers above 0, rising, got {list(variabilities)}")
