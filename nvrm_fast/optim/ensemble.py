"""Predictions of many perturbed copies of a model that exists once."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..contract.distributions import DISTRIBUTIONS
from ..contract.record import DISTRIBUTION, SCALE, SEED, STEP, TURN, scale_bits
from ..contract.seeds import check_integer, signed_seed
from ..prediction import Prediction, prediction
from . import measures
from .batches import MASTER, MEASURE, PERTURBATION, ParamRef
from .shards import local_tensor

#: Draws of an ensemble have a key of their own, so that none of them is the noise of a step.
_KEY = 0xD1B54A32D192ED03


class _Perturbed(Protocol):
    state: Any

    def _refs_with_record(self) -> list[tuple[dict[str, Any], list[ParamRef]]]: ...

    def _reperturb(self, group: dict[str, Any], refs: list[ParamRef], targets: list[Tensor]) -> None: ...

    def _noise_scale(self, group: dict[str, Any]) -> float | Tensor: ...

    def _take_noise_off(self, group: dict[str, Any], refs: list[ParamRef]) -> None: ...


def _targets(optimizer: _Perturbed, group: dict[str, Any], refs: list[ParamRef], sample: int) -> list[Tensor]:
    """What the parameters carry in a sample; the host reads nothing of it."""
    scale = optimizer._noise_scale(group)
    targets = []
    for ref in refs:
        target = optimizer.state[ref.param][PERTURBATION].clone()
        if isinstance(scale, Tensor):
            target[SCALE] = scale.detach().to(target.device, torch.float32).reshape(()).view(torch.int32)
        else:
            target[SCALE] = scale_bits(scale)
        target[SCALE] = measures.relative_bits(group, target[SCALE])
        target[SEED] = signed_seed(group["seed"] ^ _KEY)
        target[DISTRIBUTION], target[STEP], target[TURN] = DISTRIBUTIONS[group["noise"]], sample, 0
        targets.append(target)
    return targets


def predict(optimizer: _Perturbed, model: nn.Module, x: Any, samples: int, class_dim: int | None = None) -> Prediction:
    """`predict` of clean weights, which the caller sees to and which are the same bits afterwards."""
    check_integer(samples, 63, "samples")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    by_group = [(group, [ref for ref in refs if ref.is_selected]) for group, refs in optimizer._refs_with_record()]
    every = [ref for _, refs in by_group for ref in refs]
    states = [optimizer.state[ref.param] for ref in every]
    for group, refs in by_group:
        for ref in refs:
            if MEASURE not in optimizer.state[ref.param]:  # no step was done yet
                measures.complete(group, ref, optimizer.state[ref.param], optimizer._take_noise_off)
    # In place noise comes off with a rounding: every sample starts from a copy of the clean weights.
    weights = [local_tensor(ref.param) for ref, state in zip(every, states) if MASTER not in state]
    own = [state[key] for state in states for key in (PERTURBATION, MEASURE) if key in state]
    clean = [(x, x.clone()) for x in (*weights, *own)]
    scales = [(group, refs, measures.measured_for(group, refs, optimizer.state)) for group, refs in by_group]
    outputs = []
    try:
        for sample in range(samples):
            for group, refs, measured in scales:
                measures.scale_by(refs, optimizer.state, measured)
                optimizer._reperturb(group, refs, _targets(optimizer, group, refs, sample))
            y = model(x)
            if not isinstance(y, Tensor):
                raise TypeError(f"the model must return one tensor, got {type(y).__name__}: wrap it so that it does")
            outputs.append(y)
            _restore(optimizer, by_group, clean)
    except BaseException:
        _restore(optimizer, by_group, clean)
        raise
    return prediction(torch.stack(outputs), class_dim=class_dim)


def _restore(
    optimizer: _Perturbed, by_group: list[tuple[dict[str, Any], list[ParamRef]]], clean: list[tuple[Tensor, Tensor]]
) -> None:
    for group, refs in by_group:
        optimizer._take_noise_off(group, refs)
    if clean:
        torch._foreach_copy_([param for param, _ in clean], [value for _, value in clean])
