"""Many perturbed copies of one model, measured in one vectorized pass: theta + eps with eps from the noise contract.

The model is never written to: every copy is a set of stacked tensors that `torch.func.functional_call` puts in the
place of the model's own. Noise is a function, so it is drawn anew for each batch of the data instead of being kept, and
the data are read once, in any order of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd

from nvrm_fast.contract.distributions import distribution_code
from nvrm_fast.contract.names import unwrapped_names
from nvrm_fast.contract.seeds import check_integer
from nvrm_fast.contract.streams import assign_streams
from nvrm_fast.noise import noise

from .restored import check_finite, restored

#: Maps a model's outputs and the targets of a batch to one number, the batch's mean.
Measure = Callable[[Tensor, Tensor], Tensor]
Data = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
Tensors = dict[str, Tensor]  # by the parameter's or buffer's name

#: Put before a parameter's name when its stream is chosen: an optimizer with the same seed draws from other streams.
STREAM_PREFIX = "neural_variability."
_WEIGHTS_AT_ONCE = 2**25  # elements of all stacked copies: 128 MiB in float32
_MODELS_AT_ONCE = 32  # bounds the activations


@dataclass(frozen=True)
class Draw:
    """One perturbed copy: scale * the unit noise of a step. A scale of 0 is the clean model, a negative one -eps."""

    step: int
    scale: float


@dataclass(frozen=True)
class Measured:
    """What all copies have on all data."""

    values: Tensor  # float64 (draws, measures), on the CPU: means over the examples
    examples: int
    vectorized: bool  # False: one copy after another


def measure(
    model: nn.Module,
    measures: Sequence[Measure],
    data: Data,
    draws: Sequence[Draw],
    *,
    seed: int = 0,
    distribution: str = "gaussian",
    parameters: Iterable[str] | None = None,
    batch_size: int = 256,
    at_once: int | None = None,
    vectorized: bool | None = None,
) -> Measured:
    """Means of measures over the data for every draw of the weights.

    Args:
        model: left as it is, bit for bit: weights, buffers, gradients and mode. It runs in the mode it is in. In
            training mode batch normalization uses the batch's statistics (its running ones are neither used nor
            written) and dropout draws from torch's generator, anew for each copy.
        measures: each maps outputs and targets to the mean over the batch, one number.
        data: inputs and targets as two tensors, cut into batches of `batch_size`; or batches of inputs and targets,
            such as a DataLoader, which is gone through once. Batches are moved to the model's device.
        draws: the copies.
        seed: 64 bits. The noise of a parameter is `nvrm_fast.noise(numel, seed=seed, stream=s, step=draw.step,
            distribution=distribution, scale=draw.scale)`, where s is `stream_of_name(STREAM_PREFIX + name)`, or the
            next free one.
        distribution: "gaussian", "uniform", "laplace" or "rademacher"; what the scale means is in `nvrm_fast.noise`.
        parameters: names of those that are perturbed; None: all.
        batch_size: examples a pass, where the data are two tensors.
        at_once: copies in one vmap; fewer need less memory. None: up to 32, and 2^25 weights.
        vectorized: None: `torch.func.vmap`, or one copy after another where it cannot run the model or does not pay
            (convolutions on a CPU); True: vmap or an error; False: one after another.

    Raises:
        TypeError: for data, seed or parameters of another kind.
        ValueError: for a value out of range, data without examples or with NaN or infinity, or a measure that gives
            more than one number.
    """
    check_integer(seed, 64, "seed")
    distribution_code(distribution)
    for name, value in (("batch_size", batch_size), ("at_once", at_once)):
        if value is not None and not value >= 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    copies = _Copies(model, seed, distribution, parameters)
    if at_once is None:
        at_once = max(1, min(_MODELS_AT_ONCE, _WEIGHTS_AT_ONCE // copies.size))
    if vectorized is None and not copies.vmap_pays:
        vectorized = False
    chunks = [list(draws[i : i + at_once]) for i in range(0, len(draws), at_once)]
    kept = copies.stacked(chunks[0]) if len(chunks) == 1 else None
    total, examples = torch.zeros(len(draws), len(measures), dtype=torch.float64), 0
    with torch.no_grad(), restored(model):
        for inputs, targets in _batches(data, batch_size, copies.device):
            found = []
            for chunk in chunks:
                stacked = copies.stacked(chunk) if kept is None else kept
                if vectorized is not False:
                    try:
                        found.append(copies.run_together(measures, stacked, len(chunk), inputs, targets))
                        continue
                    except (RuntimeError, NotImplementedError):
                        if vectorized:
                            raise
                        vectorized = False
                found.append(copies.run_in_turn(measures, stacked, len(chunk), inputs, targets))
            total += torch.cat(found).double().cpu() * len(targets)
            examples += len(targets)
    if not examples:
        raise ValueError("data has no examples: give at least one batch (an iterator that is used up has none)")
    return Measured(total / examples, examples, vectorized is not False)


class _Copies:
    """Stacked weights of perturbed copies and how to run them."""

    def __init__(self, model: nn.Module, seed: int, distribution: str, chosen: Iterable[str] | None) -> None:
        self.model, self.seed, self.distribution = model, seed, distribution
        own = {name: value.detach() for name, value in model.named_parameters()}
        if isinstance(chosen, str):
            raise TypeError(f"parameters must be several names, got the string {chosen!r}: write [{chosen!r}]")
        names = list(own) if chosen is None else list(chosen)
        unknown = [name for name in names if name not in own]
        if unknown:
            raise ValueError(f"parameters has {unknown[0]!r}, which is not among the model's named_parameters()")
        for name in names:
            if not own[name].is_floating_point():
                raise TypeError(f"parameter {name!r} is {own[name].dtype}, which takes no noise: leave it out of them")
        if not names:
            raise ValueError("there is no parameter to perturb: the model, or parameters, has none")
        streams = assign_streams([STREAM_PREFIX + name for name in unwrapped_names(model, own)], len(own), set())
        self.streams = {name: stream for name, stream in zip(own, streams) if name in names}
        self.perturbed = {name: own[name] for name in own if name in self.streams}
        self.others = {name: own[name] for name in own if name not in self.streams}
        self.size = sum(value.numel() for value in self.perturbed.values())
        self.device = next(iter(self.perturbed.values())).device
        self.buffers = {name: value.detach() for name, value in model.named_buffers()}
        # vmap makes grouped convolutions of them, which CPUs run 1.2 to 2.7 times as slowly as one after another.
        self.vmap_pays = self.device.type != "cpu" or not any(isinstance(m, _ConvNd) for m in model.modules())
        self.writes_buffers = any(module.training for module in model.modules())

    def stacked(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """theta + eps of each draw: (draws, *shape) of each perturbed parameter, in its dtype."""
        return {name: torch.stack([self._weight(name, draw) for draw in draws]) for name in self.perturbed}

    def _weight(self, name: str, draw: Draw) -> Tensor:
        clean = self.perturbed[name]
        eps = noise(
            clean.numel(),
            seed=self.seed,
            stream=self.streams[name],
            step=draw.step,
            distribution=self.distribution,
            scale=draw.scale,
            device=clean.device,
        )
        # Sums of 16-bit weights and float32 noise are rounded once; those of float64 weights keep all digits.
        return (clean + eps.view(clean.shape)).to(clean.dtype)

    def run_together(
        self, measures: Sequence[Measure], stacked: Tensors, count: int, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """(count, measures) by vmap."""
        # A module in training mode may write to its buffers: each copy gets its own.
        buffers = {
            name: torch.stack([value] * count) if self.writes_buffers else value.clone()
            for name, value in self.buffers.items()
        }

        def values_of_copy(weights: Tensors, buffers: Tensors) -> Tensor:
            return self._values(measures, weights, buffers, inputs, targets)

        return vmap(values_of_copy, in_dims=(0, 0 if self.writes_buffers else None), randomness="different")(
            stacked, buffers
        )

    def run_in_turn(
        self, measures: Sequence[Measure], stacked: Tensors, count: int, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """(count, measures), one copy after another."""
        rows = []
        for k in range(count):
            buffers = {name: value.clone() for name, value in self.buffers.items()}
            weights = {name: value[k] for name, value in stacked.items()}
            rows.append(self._values(measures, weights, buffers, inputs, targets))
        return torch.stack(rows)

    def _values(
        self, measures: Sequence[Measure], weights: Tensors, buffers: Tensors, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        outputs = functional_call(self.model, {**self.others, **weights, **buffers}, (inputs,))
        values = [torch.as_tensor(one(outputs, targets)) for one in measures]
        for value in values:
            if value.dim():
                raise ValueError(
                    f"a loss or measure must be one number, the batch's mean; got shape {tuple(value.shape)}"
                )
        return torch.stack([value.to(self.device) for value in values])


def _batches(data: Data, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        inputs, targets = cast(tuple[Tensor, Tensor], data)
        if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
            raise ValueError(
                f"data has inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}: both "
                "need the examples first, as many of each"
            )
        batches: Iterable[tuple[Tensor, Tensor]] = zip(inputs.split(batch_size), targets.split(batch_size))
    elif isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise TypeError(f"data must be (inputs, targets) or batches of them, got {type(data).__name__}")
    else:
        batches = cast(Iterable[tuple[Tensor, Tensor]], data)
    for batch in batches:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(p, Tensor) for p in batch)):
            raise TypeError(f"data must give batches of two tensors, inputs and targets; got {type(batch).__name__}")
        inputs, targets = batch
        if len(targets):
            check_finite(inputs, "data's inputs")
            check_finite(targets, "data's targets")
            yield inputs.to(device), targets.to(device)
