"""The optimizers that studies hold against each other, by the paper's names, and how each takes a step.

IVON (Shen et al., 2024) and SAM (Foret et al., 2021) come from their well-kept packages: ivon-opt and
pytorch_optimizer. Anti-PGD (Orvieto et al., 2022) is NVRM-SGD with noise of b or -b, m-RWP (Li et al., 2024) is
NVRM-SGD with the noise in one half of each batch, MSAM (Becker et al., 2024) goes around SGD.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nvrm_fast.optim import NVRMSGD, MomentumSAM, NVRMAdam, PerturbedSGD, mixed_gradient
from studies import StudyError

SGD, NVRM_SGD, PERTURBED_SGD = "SGD", "NVRM-SGD", "PSGD"  # the paper's names
ADAM, NVRM_ADAM = "Adam", "NVRM-Adam"
IVON, SAM = "IVON", "SAM"
ANTI_PGD, M_RWP, MSAM = "anti-PGD", "m-RWP", "MSAM"
#: Those that have a scale b.
NOISY = (NVRM_SGD, PERTURBED_SGD, NVRM_ADAM, ANTI_PGD, M_RWP)
OPTIMIZERS = (SGD, NVRM_SGD, PERTURBED_SGD, ADAM, NVRM_ADAM, IVON, SAM, ANTI_PGD, M_RWP, MSAM)
OptimizerName = Literal["SGD", "NVRM-SGD", "PSGD", "Adam", "NVRM-Adam", "IVON", "SAM", "anti-PGD", "m-RWP", "MSAM"]
#: What is not in torch or nvrm_fast: (module, distribution).
PACKAGES = {IVON: ("ivon", "ivon-opt"), SAM: ("pytorch_optimizer", "pytorch_optimizer")}


def require(names: Iterable[str]) -> None:
    """See that the packages of these optimizers are installed.

    Raises:
        StudyError: naming the first that is not.
    """
    for name in names:
        module, distribution = PACKAGES.get(name, ("torch", "torch"))
        if importlib.util.find_spec(module) is None:
            raise StudyError(f"{name} needs the package {distribution}: pip install {distribution}")


def make_optimizer(name: str, network: nn.Module, settings: Any, seed: int, examples: int = 1) -> torch.optim.Optimizer:
    """An optimizer of ``OPTIMIZERS`` with the settings' learning rate, momentum, L2 penalty and scale of noise.

    Args:
        name: one of ``OPTIMIZERS``.
        network: what it trains.
        settings: hyper-parameters, as ``TrainingSettings`` has them. Adam takes `adam_lr` and its usual moments, IVON
            `ivon_lr` and `ivon_hessian`, SAM `sam_rho`, MSAM `msam_rho`; anti-PGD has its own noise.
        seed: of the weight noise (not of IVON's, which draws from torch's generator).
        examples: training images, which IVON needs.

    """
    weights = list(network.parameters())
    descent = {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
    noise = {"variability": settings.variability, "noise": settings.noise, "seed": seed}
    perturbed = noise | {"relative": settings.relative, "per": settings.per, "draws": settings.draws}
    noisy_weights: list[Any] = weights
    if not settings.noise_on_biases:
        noisy_weights = list(network.named_parameters())
        perturbed["exclude"] = lambda name, parameter: parameter.dim() < 2
    if name == SGD:
        return torch.optim.SGD(weights, **descent)
    if name in (NVRM_SGD, M_RWP):
        return NVRMSGD(noisy_weights, **descent, **perturbed)
    if name == ANTI_PGD:
        return NVRMSGD(noisy_weights, **descent, **{**perturbed, "noise": "rademacher"})
    if name == MSAM:
        return MomentumSAM(torch.optim.SGD(weights, **descent), rho=settings.msam_rho)
    if name == PERTURBED_SGD:
        return PerturbedSGD(weights, **descent, **noise)
    if name in (ADAM, NVRM_ADAM):
        moments = {"lr": settings.adam_lr, "weight_decay": settings.weight_decay}
        return torch.optim.Adam(weights, **moments) if name == ADAM else NVRMAdam(noisy_weights, **moments, **perturbed)
    if name == SAM:
        sam = importlib.import_module("pytorch_optimizer").SAM
        return sam(weights, torch.optim.SGD, rho=settings.sam_rho, **descent)
    if name == IVON:
        ivon = importlib.import_module("ivon").IVON
        return ivon(
            weights, lr=settings.ivon_lr, ess=examples, hess_init=settings.ivon_hessian, beta1=settings.momentum,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
    raise StudyError(f"--optimizers has {name!r}: choose of {', '.join(OPTIMIZERS)}")


def step(
    name: str, optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor],
    loss_of_part: Callable[[int, int], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """One step of an optimizer of that name; returns the loss it started from, without graph.

    Args:
        name: one of ``OPTIMIZERS``.
        optimizer: of ``make_optimizer``.
        loss_of: computes the loss of the step's batch at the weights as they are.
        loss_of_part: computes that of the i-th of so many equal parts of the batch, which m-RWP needs.
    """

    def backward() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss.detach()

    if name == M_RWP:
        if loss_of_part is None:
            raise StudyError("m-RWP takes a noisy and a clean half of each batch, and this study has none")
        optimizer.zero_grad()
        loss = mixed_gradient(optimizer, lambda i: loss_of_part(i, 2), 0, 1)
        optimizer.step()
        return loss
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
