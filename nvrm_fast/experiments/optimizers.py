"""The optimizers that studies hold against each other, by the paper's names, and how each takes a step.

IVON (Shen et al., 2024) and SAM (Foret et al., 2021) come from their well-kept packages: ivon-opt and
pytorch_optimizer. `pip install "nvrm_fast[baselines]"` brings both.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nvrm_fast.experiments import StudyError
from nvrm_fast.optim import NVRMSGD, NVRMAdam, PerturbedSGD

if TYPE_CHECKING:
    from nvrm_fast.experiments.settings import Settings

SGD, NVRM_SGD, PERTURBED_SGD = "SGD", "NVRM-SGD", "PSGD"  # the paper's names
ADAM, NVRM_ADAM = "Adam", "NVRM-Adam"
IVON, SAM = "IVON", "SAM"
#: Those that have a scale b.
NOISY = (NVRM_SGD, PERTURBED_SGD, NVRM_ADAM)
OPTIMIZERS = (SGD, NVRM_SGD, PERTURBED_SGD, ADAM, NVRM_ADAM, IVON, SAM)


def make_optimizer(
    name: str, network: nn.Module, settings: Settings, seed: int, examples: int = 1
) -> torch.optim.Optimizer:
    """An optimizer of ``OPTIMIZERS`` with the settings' learning rate, momentum, L2 penalty and scale of noise.

    Args:
        name: one of ``OPTIMIZERS``.
        network: what it trains.
        settings: hyper-parameters. Adam takes `adam_lr` and its usual moments, IVON `ivon_lr` and `ivon_hessian`, SAM
            `sam_rho`.
        seed: of the weight noise (not of IVON's, which draws from torch's generator).
        examples: training images, which IVON needs.

    Raises:
        StudyError: if the package that the optimizer is from is not installed.
    """
    weights = list(network.parameters())
    descent = {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
    noise = {"variability": settings.variability, "noise": settings.noise, "seed": seed}
    if name == SGD:
        return torch.optim.SGD(weights, **descent)
    if name == NVRM_SGD:
        return NVRMSGD(weights, **descent, **noise)
    if name == PERTURBED_SGD:
        return PerturbedSGD(weights, **descent, **noise)
    if name in (ADAM, NVRM_ADAM):
        moments = {"lr": settings.adam_lr, "weight_decay": settings.weight_decay}
        return torch.optim.Adam(weights, **moments) if name == ADAM else NVRMAdam(weights, **moments, **noise)
    if name == SAM:
        return _from("pytorch_optimizer", "SAM")(weights, torch.optim.SGD, rho=settings.sam_rho, **descent)
    if name == IVON:
        return _from("ivon", "IVON")(
            weights, lr=settings.ivon_lr, ess=examples, hess_init=settings.ivon_hessian, beta1=settings.momentum,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
    raise StudyError(f"--optimizers has {name!r}: choose of {', '.join(OPTIMIZERS)}")


def _from(package: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(package), name)
    except ModuleNotFoundError as missing:
        if missing.name != package:
            raise
        raise StudyError(f'{name} needs a package: pip install "nvrm_fast[baselines]"') from None


def step(name: str, optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> Tensor:
    """One step of an optimizer of that name; returns the loss it started from, without graph.

    Args:
        name: one of ``OPTIMIZERS``.
        optimizer: of ``make_optimizer``.
        loss_of: computes the loss of the step's batch at the weights as they are.
    """

    def backward() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss.detach()

    if name == IVON:
        with optimizer.sampled_params(train=True):
            loss = backward()
        optimizer.step()
        return loss
    loss = backward()
    if name == SAM:
        optimizer.step(backward)  # backward runs a second time, at the weights SAM climbed to
    else:
        optimizer.step()
    return loss


def clean_weights(optimizer: torch.optim.Optimizer) -> contextlib.AbstractContextManager:
    """A block in which the weights are without virtual noise, as evaluation needs it (paper, section 3). PSGD's noise
    is part of the weights and stays; IVON's mean is in them outside of its own blocks."""
    return optimizer.denoised() if hasattr(optimizer, "denoised") else contextlib.nullcontext()


def state_bytes_a_parameter(optimizer: torch.optim.Optimizer) -> float:
    """Bytes of all tensors that the optimizer keeps from step to step, divided by the number of weights."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    kept = [value for weight in weights for value in optimizer.state.get(weight, {}).values()]
    # IVON keeps its momentum and Hessian, flat, in the groups.
    kept += [value for group in optimizer.param_groups for value in group.values()]
    stored = sum(value.numel() * value.element_size() for value in kept if isinstance(value, Tensor))
    return stored / sum(weight.numel() for weight in weights)
