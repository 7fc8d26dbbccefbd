"""The names and argument lists of the code published with the NVRM paper: existing scripts change one import line.

    from nvrm_fast.variable_optim import VSGD      # was: from variable_optim import VSGD

What differs, on purpose: no stored noise, weight decay acts on the clean weights, `num_iters=0` is refused (it divided
by zero), and noise comes from `seed` instead of torch's global generator.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .optim import NVRMSGD, NeuralVariableOptimizer, NVRMAdam

__all__ = ["VAdam", "VSGD"]


def _denoise_every(num_iters: float) -> int:
    if num_iters < 1 or num_iters != int(num_iters):
        raise ValueError(f"Invalid num_iters: {num_iters}; it must be a whole number of at least 1")
    return int(num_iters)


def _noise(noise_type: str) -> str:
    if noise_type not in ("Gaussian", "Laplace", "Uniform"):
        raise ValueError("Invalid noise_type. Only Gaussian, Laplace, and Uniform are available.")
    return noise_type.lower()


class _PublishedNames(NeuralVariableOptimizer):
    """Groups may spell their options as the published code does."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group = dict(param_group)
        if "num_iters" in group:
            group["denoise_every"] = _denoise_every(group.pop("num_iters"))
        if "noise_type" in group:
            group["noise"] = _noise(group.pop("noise_type"))
        super().add_param_group(group)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if group["variability"] <= 0:
            raise ValueError(f"Invalid variability value: {group['variability']}")


class VSGD(_PublishedNames, NVRMSGD):
    """NVRM-SGD under its published name.

    Args:
        params: parameters or groups.
        lr: learning rate.
        variability: b, scale of the noise, greater than 0 (default: 0.01).
        num_iters: steps per epoch: after each multiple the weights are left clean, for evaluation (default: 1000).
        momentum, dampening, weight_decay, nesterov: as for torch.optim.SGD.
        noise_type: "Gaussian", "Laplace" or "Uniform".
        seed, master_weights, backend: as for NVRMSGD.
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor, variability: float = 1e-2, num_iters: float = 1000,
        momentum: float = 0, dampening: float = 0, weight_decay: float = 0, noise_type: str = "Gaussian",
        nesterov: bool = False, *, seed: int | None = None, master_weights: bool | None = None,
        backend: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, momentum, dampening, weight_decay, nesterov, variability=variability,
            noise=_noise(noise_type), denoise_every=_denoise_every(num_iters), seed=seed,
            master_weights=master_weights, backend=backend,
        )  # fmt: skip


class VAdam(_PublishedNames, NVRMAdam):
    """NVRM-Adam under its published name.

    Args:
        params: parameters or groups.
        lr, betas, eps, weight_decay, amsgrad: as for torch.optim.Adam.
        variability, num_iters, noise_type: as for VSGD.
        decoupled: decoupled weight decay instead of L2.
        seed, master_weights, backend: as for NVRMAdam.
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, variability: float = 1e-2, num_iters: float = 1000,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0,
        noise_type: str = "Gaussian", amsgrad: bool = False, decoupled: bool = False, *, seed: int | None = None,
        master_weights: bool | None = None, backend: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, variability=variability, noise=_noise(noise_type),
            denoise_every=_denoise_every(num_iters), seed=seed, master_weights=master_weights, backend=backend,
            decoupled_weight_decay=decoupled,
        )  # fmt: skip
