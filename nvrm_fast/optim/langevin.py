"""Optimizers that inject noise and leave it in the weights: what the NVRM paper compares with."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .base import NoisyOptimizer
from .checks import FLOAT32_LIMIT, check_number
from .rules import SgdRule, refuse_differentiable


class PerturbedSGD(SgdRule, NoisyOptimizer):
    """Perturbed SGD (NVRM paper, algorithm 2): theta <- theta - lr * (gradient + eps), eps of scale b.

    The noise is drawn after momentum, so that the buffer holds gradients only, and it is never taken off.

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov, maximize: as for torch.optim.SGD.
        variability: b, the scale of the noise on the gradient (default: 0.01); what it means for each noise type is
            told at NVRMSGD.
        noise, seed, master_weights, backend, capturable, foreach, fused: as for NVRMSGD. With master weights the noise
            is in them.

    Raises:
        ValueError: a hyper-parameter out of its range, named.
        TypeError: a complex or integer parameter, named.
    """

    keep_noise = True

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, variability: float = 0.01, noise: str = "gaussian",
        seed: int | None = None, master_weights: bool | None = None, backend: str | None = None, maximize: bool = False,
        foreach: bool | None = None, capturable: bool = False, differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:  # fmt: skip
        refuse_differentiable(differentiable)
        super().__init__(
            params,
            dict(
                lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
                maximize=maximize, variability=variability, noise=noise, seed=seed, master_weights=master_weights,
                backend=backend, capturable=capturable,
            ),
            fused,
        )  # fmt: skip

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number(group["variability"], "variability", high=FLOAT32_LIMIT)

    def _noise_scale(self, group: dict[str, Any]) -> float | Tensor:
        return -number_of(group["lr"]) * number_of(group["variability"])


class SGLD(SgdRule, NoisyOptimizer):
    """Stochastic gradient Langevin dynamics (Welling and Teh, ICML 2011, equation 4).

    theta <- theta - lr * gradient + N(0, 2 * lr * temperature). With the gradient of the negative log posterior of the
    whole data set (a mini-batch mean times the number of examples N) and temperature 1 it samples the posterior as lr
    goes to 0; with the gradient of a mean loss use temperature = 1 / N. In their notation lr is epsilon / 2.

    Args:
        params: parameters, named parameters or groups.
        lr: step size.
        weight_decay: precision of a Gaussian prior on the weights, in the units of the loss (default: 0).
        temperature: variance of the noise over 2 * lr (default: 1).
        seed, master_weights, backend, maximize, capturable: as for NVRMSGD. With master weights the noise is in them.

    Raises:
        ValueError: a hyper-parameter out of its range, named.
        TypeError: a complex or integer parameter, named.
    """

    keep_noise = True

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, weight_decay: float = 0.0, *, temperature: float = 1.0,
        seed: int | None = None, master_weights: bool | None = None, backend: str | None = None, maximize: bool = False,
        capturable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            dict(
                lr=lr, momentum=0.0, dampening=0.0, weight_decay=weight_decay, nesterov=False, maximize=maximize,
                temperature=temperature, noise="gaussian", seed=seed, master_weights=master_weights, backend=backend,
                capturable=capturable,
            ),
        )  # fmt: skip

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number(group["temperature"], "temperature")
        if group["momentum"] != 0 or group["noise"] != "gaussian":
            raise ValueError("SGLD has no momentum and Gaussian noise: remove these options from the parameter group")

    def _noise_scale(self, group: dict[str, Any]) -> float | Tensor:
        variance = 2 * number_of(group["lr"]) * number_of(group["temperature"])
        return variance.sqrt() if isinstance(variance, Tensor) else math.sqrt(variance)


def number_of(value: Any) -> float | Tensor:
    """A hyper-parameter in double precision: a number, unless it lies where the host would have to wait for it."""
    return value.detach().double() if isinstance(value, Tensor) and value.device.type != "cpu" else float(value)
