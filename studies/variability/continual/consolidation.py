"""Elastic weight consolidation (Kirkpatrick et al. 2017): penalties that hold weights where earlier tasks left them.

The NVRM paper (section 4, experiment 4) does not say which Fisher information, how it is scaled, or where the penalty
is taken under noise. Here: the true Fisher information, its expectation over labels taken exactly, a mean over images,
or the squared gradients of mini-batches; lambda / 2 before each penalty, as in Kirkpatrick's equation 3. Continual
learning libraries have the method, too, but bring torchvision and much else; it is short.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_IMAGES_A_PASS = 500  # bounds the activations that are held at once


def diagonal_fisher(network: nn.Module, images: Tensor, head: int) -> dict[nn.Parameter, Tensor]:
    """The diagonal of the Fisher information, E_x E_{y ~ p(y|x)} (d ln p(y|x) / d weight)^2, at the present weights.

    The expectation over y is the sum over all classes, so no label is drawn and none is looked at.

    Args:
        network: called with (images, head), gives logits. All its parameters in use belong to nn.Linear layers, each
            used once, so that an image's gradient is an outer product and its square the product of the squares.
        images: (N, inputs), over which the mean is taken.
        head: of the task.

    Returns:
        For each parameter in use a tensor of its shape; others, such as those of other heads, are left out.
    """
    seen: dict[nn.Linear, tuple[Tensor, Tensor]] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: seen.update({layer: (inputs[0], output)}))
        for layer in network.modules()
        if isinstance(layer, nn.Linear)
    ]
    found: dict[nn.Parameter, Tensor] = {}
    try:
        for part in images.split(_IMAGES_A_PASS):
            seen.clear()
            log_probabilities = network(part, head).log_softmax(1)
            outputs = [output for _, output in seen.values()]
            squares = [torch.zeros_like(output) for output in outputs]
            for log_probability in log_probabilities.unbind(1):
                gradients = torch.autograd.grad(log_probability.sum(), outputs, retain_graph=True)
                weights = log_probability.detach().exp().unsqueeze(1) / len(images)
                for square, gradient in zip(squares, gradients):
                    square.addcmul_(weights * gradient, gradient)
            for (layer, (inputs, _)), square in zip(seen.items(), squares):
                for parameter, more in (
                    (layer.weight, square.T @ inputs.detach().square()),
                    (layer.bias, square.sum(0)),
                ):
                    found[parameter] = found[parameter].add_(more) if parameter in found else more
    finally:
        for hook in hooks:
            hook.remove()
    return found


def squared_batch_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, head: int, size: int
) -> dict[nn.Parameter, Tensor]:
    """What much published code takes for the diagonal of the Fisher information: the squared gradient of the mean cross
    entropy of a mini-batch at the given labels, mean over mini-batches. Averaging before squaring makes it about as
    many times smaller as a mini-batch has images.

    Args:
        network, head: as ``diagonal_fisher`` takes them; any layers.
        images, labels: (N, inputs) and (N,); a last mini-batch that is not full is left out unless it is the only one.
        size: images of a mini-batch.
    """
    parts = list(zip(images.split(size), labels.split(size)))
    parts = [part for part in parts if len(part[1]) == size] or parts
    parameters = [*network.parameters()]
    found: dict[nn.Parameter, Tensor] = {}
    for x, y in parts:
        gradients = torch.autograd.grad(cross_entropy(network(x, head), y), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients):
            if gradient is not None:
                more = gradient.square() / len(parts)
                found[parameter] = found[parameter].add_(more) if parameter in found else more
    return found


class Consolidation:
    """The sum of one penalty lambda / 2 * F (weight - anchor)^2 for each earlier task, as a gradient.

    A sum of such parabolas is one parabola: kept are the sum of the F and its center, however many tasks there are.

    Args:
        importance: lambda; 0 is training without consolidation.
    """

    def __init__(self, importance: float) -> None:
        self.importance = importance
        self._curvature: dict[nn.Parameter, Tensor] = {}
        self._centre: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def remember(self, fisher: dict[nn.Parameter, Tensor]) -> None:
        """Adds the penalty of the task that has just been learned; the parameters hold its weights, without noise."""
        for parameter, more in fisher.items():
            if parameter not in self._curvature:
                self._curvature[parameter], self._centre[parameter] = more.clone(), parameter.detach().clone()
                continue
            curvature, center = self._curvature[parameter].add_(more), self._centre[parameter]
            share = more / curvature.clamp_min(torch.finfo(curvature.dtype).tiny)  # 0 where no task minds the weight
            center.lerp_(parameter.detach(), share)

    @torch.no_grad()
    def add_gradients(self, weights_of: Callable[[nn.Parameter], Tensor] = lambda parameter: parameter) -> None:
        """Adds the penalties' gradients to those of the loss; parameters without a gradient are left alone.

        Args:
            weights_of: where the penalty of a parameter is taken; by default at what the parameter holds.
        """
        for parameter, curvature in self._curvature.items():
            if parameter.grad is not None:
                away = weights_of(parameter) - self._centre[parameter]
                parameter.grad.addcmul_(curvature, away, value=self.importance)
