"""`Recorder`: what a training run with an injection node is measured by, step by step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from .decay import DecayFit, fit_decay
from .injection import NoiseInjection
from .layer_derivatives import Loss, local_gradient, local_hessian_trace, update_sides
from .phases import Criteria, classify
from .restored import restored

#: What `record` writes, one value a call; those of the node need `node=True` (the default), else they are NaN.
SERIES = (
    "step",
    "noise_norm",
    "next_norm",
    "training_loss",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "local_gradient",
    "hessian_trace",
    "hessian_trace_error",
    "update_residual",
    "hessian_share",
)


class Recorder:
    """Measures a model with one injection node; training stays the user's own loop.

        recorder = Recorder(model, injection, cross_entropy, next_layer="fc2", lr=0.05)
        recorder.record(step, train=(x, y), test=(x_test, y_test))
        recorder.phase(), recorder.decay_times()

    Args:
        model: the model the injection was made for.
        injection: the node.
        loss: maps outputs and targets to the mean loss of the batch.
        next_layer: name of the layer whose weights are fed by the node's layer; None: not recorded.
        lr: eta of eq. 2, for the two sides of the update; None: not recorded.
        accuracy: maps outputs and targets to a fraction; by default the share of right argmax where targets are
            class indices, else NaN.
        hessian_samples: products in Hutchinson's estimate of the local Hessian trace; None: exact.

    Raises:
        KeyError: for a next_layer that the model lacks.
    """

    def __init__(
        self,
        model: nn.Module,
        injection: NoiseInjection,
        loss: Loss,
        *,
        next_layer: str | None = None,
        lr: float | None = None,
        accuracy: Callable[[Tensor, Tensor], float] | None = None,
        hessian_samples: int | None = 8,
    ) -> None:
        modules = dict(model.named_modules())
        if next_layer is not None and next_layer not in modules:
            raise KeyError(f"next_layer {next_layer!r} is not in the model")
        self._next = None if next_layer is None else modules[next_layer]
        self.model, self.injection, self.loss, self.lr = model, injection, loss, lr
        self.accuracy = accuracy or argmax_accuracy
        self.hessian_samples = hessian_samples
        self.series: dict[str, list[float]] = {name: [] for name in SERIES}

    def record(
        self, step: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor] | None = None, *, node: bool = True
    ) -> None:
        """Measure once. The model's mode, weights and gradients, and torch's generators, stay as they are.

        Args:
            step: any increasing number: steps or epochs.
            train: inputs and targets of training examples; the node's quantities are taken on them too.
            test: inputs and targets of test examples.
            node: also the local gradient, the Hessian trace and eq. 2, which cost some forward and backward passes.
        """
        row = dict.fromkeys(SERIES, math.nan)
        row["step"] = step
        row["noise_norm"] = float(self.injection.weight.detach().norm())
        if self._next is not None:
            row["next_norm"] = float(self._next.weight.detach().norm())
        # Not the fixed noise of some examples, nor a draw from the user's generator: any eps so distributed will do.
        eps = self.injection.draw(len(train[0]), seed=int(step))
        with restored(self.model):
            self.model.eval()
            with torch.no_grad():
                row["train_loss"], row["train_accuracy"] = self._judge(*train)
                with self.injection.given(eps):
                    row["training_loss"] = float(self.loss(self.model(train[0]), train[1]))
                if test is not None:
                    row["test_loss"], row["test_accuracy"] = self._judge(*test)
            if node:
                self._measure_node(row, train, eps)
        for name in SERIES:
            self.series[name].append(row[name])

    def _judge(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        outputs = self.model(inputs)
        return float(self.loss(outputs, targets)), float(self.accuracy(outputs, targets))

    def _measure_node(self, row: dict[str, float], train: tuple[Tensor, Tensor], eps: Tensor) -> None:
        arguments = (self.model, self.injection, self.loss, *train)
        g = local_gradient(*arguments)
        row["local_gradient"] = float((g * g).sum(1).mean().sqrt())
        row["hessian_trace"], row["hessian_trace_error"] = local_hessian_trace(*arguments, samples=self.hessian_samples)
        if self.lr is not None:
            sides = update_sides(*arguments, eps, self.lr)
            row["update_residual"], row["hessian_share"] = sides.residual, sides.hessian_share

    def tensor(self, name: str) -> Tensor:
        """One series, float64 of shape (records,)."""
        return torch.tensor(self.series[name], dtype=torch.float64)

    def phase(self, criteria: Criteria | None = None) -> str:
        """The run's phase, from two records or more."""
        noise_norm, training_loss = self.tensor("noise_norm"), self.tensor("training_loss")
        return cast(str, classify(noise_norm, training_loss, self.tensor("train_loss"), criteria))

    def decay_times(self) -> dict[str, DecayFit | None]:
        """tau_noise and tau_loss (noise off, training and test) in units of step; None where nothing decays."""
        time = self.tensor("step")
        names = {"noise": "noise_norm", "train loss": "train_loss", "test loss": "test_loss"}
        return {what: fit_decay(time, self.tensor(name)) for what, name in names.items()}

    def save(self, path: str | Path) -> None:
        """All series as JSON; what is not finite as null."""
        clean = {
            name: [value if math.isfinite(value) else None for value in values] for name, values in self.series.items()
        }
        Path(path).write_text(json.dumps(clean, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def argmax_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of examples whose largest output is the target class (an index, or the largest entry of a row).

    NaN where the targets are neither, or there is a single output.
    """
    if outputs.dim() < 2 or outputs.shape[-1] < 2:
        return math.nan
    if targets.shape == outputs.shape:
        targets = targets.argmax(-1)
    if targets.is_floating_point() or targets.shape != outputs.shape[:-1]:
        return math.nan
    return float((outputs.argmax(-1) == targets).double().mean())
