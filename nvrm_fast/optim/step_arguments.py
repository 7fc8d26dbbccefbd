"""What a step hands to its operator: of a batch of parameters, their gradients, state and noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract.arguments import StepArguments
from ..contract.distributions import DISTRIBUTIONS
from ..contract.rules import Hyper
from ..contract.seeds import signed_seed
from . import measures
from .batches import Part, Plan, StalePlan
from .interface import SteppedOptimizer
from .shards import local_tensor


def arguments_of(
    optimizer: SteppedOptimizer, part: Part, plan: Plan, k: int, grad_scale: Tensor | None, found_inf: Tensor | None
) -> StepArguments:
    """What the operator gets of the plan's k-th batch. The host reads nothing from a device.

    Raises StalePlan where somebody has put state in since the plan was made.
    """
    group, rule, batch = part.group, plan.rule, plan.batches[k]
    data, grads = plan.data(part), plan.grads(part)
    if not plan.has_state_of(k):
        raise StalePlan
    states, masters, steps, records, own_measures = plan.lists[k]
    measure = measures.code_of(group) if batch.is_selected else 0
    if plan.has_shards:
        states, masters = [local_tensor(x) for x in states], [local_tensor(x) for x in masters]
    if len(plan.batches) > 1:
        data, grads = [data[i] for i in batch.members], [grads[i] for i in batch.members]
    device = data[0].device
    scale = optimizer._noise_scale(group) if batch.is_selected else 0.0
    scale_tensors: list[Tensor] = []
    if batch.is_selected and not has_started(steps, group.get("start_step", 0)):
        scale_tensors = _after_start(scale, steps, group["start_step"])
    elif isinstance(scale, Tensor):
        scale_tensors = [scale.detach().to(device, torch.float32)] * len(data)
    hyper = [option_of(group, each) for each in rule.hyper]
    hyper_tensor = None
    if any(_stays_on_device(value, group) for value in hyper):
        hyper_tensor = torch.stack([_on_device(value, device) for value in hyper])
        hyper = [0.0 if _stays_on_device(value, group) else value for value in hyper]
    return StepArguments(
        rule=rule.code,
        params=data,
        grads=grads,
        states=states,
        masters=masters,
        steps=steps,
        records=records,
        hyper=[float(value) for value in hyper],
        offsets=batch.offsets,
        scale=0.0 if isinstance(scale, Tensor) or scale_tensors else scale,
        seed=signed_seed(optimizer._seed(group)),
        distribution=DISTRIBUTIONS[group["noise"]],
        keep_noise=optimizer.keep_noise,
        denoise_every=group.get("denoise_every") or 0,
        cycle=group.get("draws") == "cycle",
        hyper_tensor=hyper_tensor,
        scale_tensors=scale_tensors,
        grad_scale=None if grad_scale is None else grad_scale.to(device),
        found_inf=None if found_inf is None else found_inf.to(device),
        run_lengths=batch.run_lengths,
        run_strides=batch.run_strides,
        measures=own_measures,
        row_lengths=batch.row_lengths,
        measure=measure,
        sums=plan.sums_of(k) if measure else [],
    )


def option_of(group: dict[str, Any], hyper: Hyper) -> Any:
    """A hyper-parameter's value in a group."""
    value = group[hyper.option or hyper.name]
    return value if hyper.item is None else value[hyper.item]


def has_started(steps: list[Tensor], start_step: int) -> bool:
    """Whether so many steps are known to be done of all these parameters; the host waits for no device to find out."""
    return start_step <= 0 or (steps[0].device.type == "cpu" and int(torch.stack(steps).min()) >= start_step)


def _after_start(scale: float | Tensor, steps: list[Tensor], start_step: int) -> list[Tensor]:
    """The scale for each parameter: 0 up to and with step number start_step. The host reads nothing."""
    on = (torch.stack(steps).flatten() >= start_step).to(torch.float32)
    return list((on * (scale.detach().to(on.device) if isinstance(scale, Tensor) else scale)).unbind())


def _stays_on_device(value: Any, group: dict[str, Any]) -> bool:
    """Whether kernels read the value there: it may change within a captured graph, and the host does not wait."""
    return isinstance(value, Tensor) and (value.device.type != "cpu" or bool(group.get("capturable")))


def _on_device(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float64).reshape(())
    return torch.full((), float(value), dtype=torch.float64, device=device)
