"""Learn tasks one after the other with Adam or NVRM-Adam, and judge all tasks learned so far after each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast.experiments.variability.continual import heads
from nvrm_fast.experiments.variability.continual.consolidation import Consolidation, diagonal_fisher
from nvrm_fast.experiments.variability.continual.heads import HeadedNetwork
from nvrm_fast.experiments.variability.continual.tasks import Examples, Task
from nvrm_fast.optim import NVRMAdam

_IMAGES_A_PASS = 1_000  # bounds the activations that evaluation holds at once


@dataclass(frozen=True)
class Recipe:
    """How a task is trained; the same for both optimizers."""

    width: int
    epochs: int  # passes over each task's images
    batch_size: int
    lr: float
    weight_decay: float
    new_optimizers: bool  # a task starts with moments of zero; otherwise with those that the task before it left


@dataclass(frozen=True)
class Spring:
    """Elastic weight consolidation: lambda, where the penalty is taken, and how many images its Fisher information."""

    importance: float
    at_clean_weights: bool
    fisher_images: int


def make_optimizer(
    parameters: Sequence[nn.Parameter], recipe: Recipe, variability: float, seed: int, keep_clean: bool = False
) -> torch.optim.Optimizer:
    """``torch.optim.Adam`` if b is 0, else ``NVRMAdam``; with ``keep_clean`` the latter has the clean weights at hand
    under "master_param" of its state."""
    shared = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if variability == 0:
        return torch.optim.Adam(parameters, **shared, fused=True)
    masters = True if keep_clean else None
    return NVRMAdam(parameters, **shared, variability=variability, seed=seed, master_weights=masters)


def clean_weights(optimizer: torch.optim.Optimizer) -> contextlib.AbstractContextManager:
    """A block in which the weights are without noise."""
    return optimizer.denoised() if isinstance(optimizer, NVRMAdam) else contextlib.nullcontext()


@torch.no_grad()
def accuracy(network: HeadedNetwork, examples: Examples, head: int) -> float:
    """The fraction of examples whose largest logit is the label's."""
    right = 0
    for chosen in torch.arange(len(examples), device=examples.labels.device).split(_IMAGES_A_PASS):
        images, labels = examples.batch(chosen)
        right += int((network(images, head).argmax(1) == labels).sum())
    return right / len(examples)


def learn(
    tasks: Sequence[Task],
    classes: int,
    recipe: Recipe,
    *,
    variability: float,
    seed: int,
    spring: Spring | None = None,
    after_task: Callable[[HeadedNetwork], object] = lambda network: None,
) -> dict[str, list[list[float]]]:
    """Learn the tasks in their order. At one seed all optimizers start from the same weights and see the same batches.

    Args:
        tasks: all on one device.
        classes: logits of a head.
        recipe: how each task is trained.
        variability: b of NVRM-Adam; 0 is Adam.
        seed: of the initialisation, the batch order and the weight noise.
        spring: elastic weight consolidation; None: without.
        after_task: called with the network, its weights clean, after each task has been judged.

    Returns:
        ``accuracy``: after each task the test accuracies (fractions, on clean weights) of all tasks so far, by tasks.

    Raises:
        ValueError: for several heads and one optimizer, which could not leave the other tasks' heads alone.
    """
    images = tasks[0].train.images
    count = 1 + max(task.head for task in tasks)
    if count > 1 and not recipe.new_optimizers:
        raise ValueError("tasks with heads of their own need new_optimizers")
    network = heads.build(images.shape[1], recipe.width, classes, count, seed=seed).to(images.device)
    order = torch.Generator().manual_seed(seed + 2**32)
    consolidation = Consolidation(spring.importance) if spring else None
    optimizer, accuracies = None, []
    for number, task in enumerate(tasks):
        if optimizer is None or recipe.new_optimizers:
            optimizer = make_optimizer(
                network.parameters_of(task.head),
                recipe,
                variability,
                # Each optimizer counts its steps from 0, so with one seed all tasks would see the same noise.
                seed=seed * len(tasks) + number,
                keep_clean=spring is not None and spring.at_clean_weights,
            )
        _train(network, task, optimizer, recipe, order, consolidation)
        with clean_weights(optimizer):
            if consolidation and number < len(tasks) - 1:
                few = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed + number + 2**35))
                few = few[: spring.fisher_images].to(images.device)
                consolidation.remember(diagonal_fisher(network, task.train.batch(few)[0], task.head))
            accuracies.append([accuracy(network, seen.test, seen.head) for seen in tasks[: number + 1]])
            after_task(network)
        if recipe.new_optimizers and isinstance(optimizer, NVRMAdam):
            optimizer.denoise()  # nobody else could take its noise off
    return {"accuracy": accuracies}


def _train(
    network: HeadedNetwork,
    task: Task,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    order: torch.Generator,
    consolidation: Consolidation | None,
) -> None:
    def clean(parameter: nn.Parameter) -> Tensor:
        return optimizer.state.get(parameter, {}).get("master_param", parameter)

    for _ in range(recipe.epochs):
        numbers = torch.randperm(len(task.train), generator=order).to(task.train.labels.device)
        for chosen in numbers.split(recipe.batch_size):
            images, labels = task.train.batch(chosen)
            optimizer.zero_grad()
            cross_entropy(network(images, task.head), labels).backward()
            if consolidation:
                consolidation.add_gradients(clean)
            optimizer.step()
