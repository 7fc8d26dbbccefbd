"""Local gradient and Hessian at an injection node, and the two sides of eq. 2.

"Local" means: in the pre-activations z of the node's layer, an example at a time. All functions take a loss that is
the mean over the batch, evaluate the model as it stands (call `model.eval()` first where dropout or batch
normalization would mix examples), and leave gradients alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad, vjp

from .injection import NoiseInjection

Loss = Callable[[Tensor, Tensor], Tensor]


def _loss_by_shift(
    model: nn.Module, injection: NoiseInjection, loss: Loss, inputs: Tensor, targets: Tensor
) -> Callable[[Tensor], Tensor]:
    """Sum of the examples' losses as a function of a shift of z, of shape (N, features)."""

    def summed(shift: Tensor) -> Tensor:
        with injection.shifted(shift):
            return loss(model(inputs), targets) * len(inputs)

    return summed


def _no_shift(injection: NoiseInjection, inputs: Tensor) -> Tensor:
    weight = injection.weight
    return torch.zeros(len(inputs), injection.features, dtype=weight.dtype, device=weight.device)


def local_gradient(model: nn.Module, injection: NoiseInjection, loss: Loss, inputs: Tensor, targets: Tensor) -> Tensor:
    """g = dL/dz of each example without noise: shape (N, features)."""
    summed = _loss_by_shift(model, injection, loss, inputs, targets)
    return grad(summed)(_no_shift(injection, inputs)).detach()


def local_hessian_product(
    model: nn.Module, injection: NoiseInjection, loss: Loss, inputs: Tensor, targets: Tensor, vectors: Tensor
) -> Tensor:
    """H v of each example without noise: vectors of shape (N, features) or (features,); returns (N, features)."""
    summed = _loss_by_shift(model, injection, loss, inputs, targets)
    start = _no_shift(injection, inputs)
    # H is symmetric, so the backward pass of the gradient gives H v, with no need of forward-mode formulas.
    product = vjp(grad(summed), start)[1]
    return product(vectors.to(start.dtype).expand_as(start).contiguous())[0].detach()


def local_hessian_trace(
    model: nn.Module,
    injection: NoiseInjection,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    samples: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """<Tr H>, the mean over the examples, and its standard error.

    Args:
        samples: None: exact, with one product a feature. Otherwise Hutchinson's estimate from so many products with
            random signs, an independent vector for every example; at least 2.
        seed: of the signs.

    Raises:
        ValueError: for samples below 2.
    """
    arguments = (model, injection, loss, inputs, targets)
    if samples is None:
        total = 0.0
        for j, direction in enumerate(torch.eye(injection.features, dtype=injection.weight.dtype)):
            total += float(local_hessian_product(*arguments, direction.to(injection.weight.device))[:, j].mean())
        return total, 0.0
    if samples < 2:
        raise ValueError(f"samples must be 2 or more, or None for the exact trace; got {samples}")
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, len(inputs), injection.features)
    signs = torch.randint(2, shape, generator=generator).to(injection.weight) * 2 - 1
    traces = torch.stack([(v * local_hessian_product(*arguments, v)).sum(1).mean() for v in signs]).double()
    return float(traces.mean()), float(traces.std() / math.sqrt(samples))


@dataclass(frozen=True)
class UpdateSides:
    """One SGD update of W_NI and what eq. 2 says about it; all of shape (nodes, features).

    The Hessian terms carry no factor 1/2: eq. 2 prints -(eta sigma^2 / 2) <H> W_NI, but the derivative of eq. 6's
    (1/2) W^T <eps^2 H> W is <eps^2 H> W (the linear model agrees: there <H> = w1^2 and B~ = eta w1^2, for which
    footnote 4 of the paper doubles H).
    """

    measured: Tensor  # -eta dL/dW_NI, noise on
    gradient_term: Tensor  # -eta <eps g>: this batch's noise
    hessian_term: Tensor  # -eta <eps^2 H W_NI>: this batch's noise
    gradient_deviation: Tensor  # eta sigma sqrt(<g^2> / |B|): what eq. 2 multiplies by Phi
    hessian_mean: Tensor  # -eta sigma^2 <H> W_NI: eq. 2 with sigma^2 for eps^2

    @property
    def residual(self) -> float:
        """|measured - gradient_term - hessian_term| / |measured|: what the second order leaves out."""
        return float((self.measured - self.gradient_term - self.hessian_term).norm() / self.measured.norm())

    @property
    def hessian_share(self) -> float:
        """Norm of the mean Hessian term over the norm of the random gradient term: above 1 the node decays."""
        return float(self.hessian_mean.norm() / self.gradient_deviation.norm())


def update_sides(
    model: nn.Module, injection: NoiseInjection, loss: Loss, inputs: Tensor, targets: Tensor, eps: Tensor, lr: float
) -> UpdateSides:
    """Both sides of eq. 2 on one batch.

    Args:
        eps: the batch's noise, (N, nodes), sigma included; its distribution has the variance injection.variance.
        lr: eta.
    """
    weight = injection.weight
    with injection.given(eps):
        measured = torch.autograd.grad(loss(model(inputs), targets), weight)[0]
    arguments = (model, injection, loss, inputs, targets)
    g = local_gradient(*arguments)
    batch, eps = len(inputs), eps.to(weight.dtype)
    with torch.no_grad():
        moved = local_hessian_product(*arguments, eps @ weight)  # H (W_NI eps), an example at a time
        mean = torch.stack([local_hessian_product(*arguments, node).mean(0) for node in weight.detach()])
        deviation = (injection.variance * (g * g).mean(0) / batch).sqrt().expand_as(weight)
        return UpdateSides(
            measured=-lr * measured,
            gradient_term=-lr * eps.T @ g / batch,
            hessian_term=-lr * eps.T @ moved / batch,
            gradient_deviation=lr * deviation,
            hessian_mean=-lr * injection.variance * mean,
        )
