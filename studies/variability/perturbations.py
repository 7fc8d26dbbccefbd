"""What the weight-perturbation study measures on a trained network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast.probe import (
    NeuralVariability,
    accuracy_against_noise,
    mutual_information_bound,
    neural_variabilities,
    pac_bayes_bound,
    squared_distance,
    weight_count,
    zero_one_loss,
)
from studies import StudyError, models
from studies.seeds import derive
from studies.variability.training import Problem, TrainingSettings

LOSSES = {"cross_entropy": cross_entropy, "errors": zero_one_loss}


@dataclass(frozen=True)
class Perturbations:
    """How the weights of a trained network are perturbed.

    Args:
        scales: of the Gaussian noise in front of the test images.
        samples: perturbed networks a scale.
        train_scales: b at which delta and the bounds are measured, on the training images; one at least.
        train_samples: perturbed networks for each of these.
        batch_size: images a pass.
    """

    scales: tuple[float, ...]
    samples: int
    train_scales: tuple[float, ...]
    train_samples: int
    batch_size: int = 500

    def __call__(self, network: nn.Module, problem: Problem, settings: TrainingSettings, seed: int) -> dict[str, Any]:
        """All measures of a network on clean weights, as plain values.

        Args:
            network: trained; left as it is, but for its mode, which is evaluation afterwards.
            problem: whose training images delta is of and whose test images the accuracies are of.
            settings: that the network was trained with.
            seed: that it was trained with.

        Raises:
            StudyError: if a weight is not finite.
        """
        if not all(bool(weight.isfinite().all()) for weight in network.parameters()):
            raise StudyError(
                f"a network (seed {seed}, b = {settings.variability:g}) diverged: choose a smaller --lr or b; finished "
                "runs are kept"
            )
        network.eval()
        noise = {"seed": derive(seed, "perturbed copies"), "batch_size": self.batch_size}
        test = problem.test_images, problem.test_labels
        train = problem.train_images, problem.train_labels
        curve = accuracy_against_noise(network, test, self.scales, samples=self.samples, **noise)
        found = neural_variabilities(network, LOSSES, train, self.train_scales, samples=self.train_samples, **noise)
        risks = accuracy_against_noise(
            network, test, self.train_scales, samples=self.train_samples, measured=zero_one_loss, **noise
        )
        shape = tuple(problem.train_images.shape[1:])
        start = models.build(settings.network, shape, problem.classes, settings.width, seed=derive(seed, "weights"))
        weights, distance = weight_count(network), squared_distance(network, start)
        return {
            "weights": weights,
            "root_mean_square_weight": math.sqrt(squared_distance(network) / weights),
            "distance_from_start": math.sqrt(distance),
            "accuracy": rows(curve.values),
            "deltas": {name: [plain(one) for one in results] for name, results in found.items()},
            "test_errors": risks.mean.tolist(),
            "bounds": [self._bounds(network, start, distance, one, settings.weight_decay) for one in found["errors"]],
        }

    def _bounds(
        self, network: nn.Module, start: nn.Module, distance: float, found: NeuralVariability, weight_decay: float
    ) -> dict[str, Any]:
        """Theorem 2.2 with the paper's prior (None without weight decay) and with one of width b round the start;
        Theorem B.2."""
        near = pac_bayes_bound(network, found, sigma=found.b, start=start)
        information = mutual_information_bound(
            distance, weight_count(network), b=found.b, examples=found.examples, delta=found.delta_interval[1]
        )
        decayed = pac_bayes_bound(network, found, sigma=weight_decay**-0.5) if weight_decay > 0 else None
        return {
            "pac_bayes": None if decayed is None else {"kl": decayed.kl, "bound": decayed.bound},
            "pac_bayes_near_start": {"kl": near.kl, "bound": near.bound},
            "mutual_information": {"nats": information.information, "bound": information.bound},
        }


def plain(found: NeuralVariability) -> dict[str, Any]:
    """A result as JSON values; None where a loss was not finite."""
    low, high = (end if math.isfinite(end) else None for end in found.interval)
    difference = found.difference if math.isfinite(found.difference) else None
    return {"b": found.b, "clean": found.clean_loss, "difference": difference, "low": low, "high": high}


def rows(values: Tensor) -> list[list[float]]:
    """(scales, samples) as lists, in the digits that shares of a few thousand images have."""
    return [[round(value, 6) for value in row] for row in values.tolist()]


def means(samples: Sequence[Sequence[float]]) -> list[float]:
    """The mean over the samples at each scale."""
    return [sum(row) / len(row) for row in samples]
