"""Learn tasks one after the other with Adam or NVRM-Adam, and judge all tasks learned so far after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast.optim import NVRMAdam
from studies import models
from studies.fit import fit
from studies.optimizers import clean_weights
from studies.seeds import derive, shuffled
from studies.settings import Count, NotNegative, Positive
from studies.study import ImageStudy
from studies.variability.continual.consolidation import Consolidation, diagonal_fisher, squared_batch_gradients
from studies.variability.continual.tasks import Examples, Task

_IMAGES_A_PASS = 1_000  # bounds the activations that evaluation holds at once


class HeadedNetwork(nn.Module):
    """Fully connected, two hidden layers of ``width`` ReLUs (NVRM paper, appendix C.2: 1024), one head or several."""

    def __init__(self, inputs: int, width: int, classes: int, heads: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(heads))

    def forward(self, images: Tensor, head: int) -> Tensor:
        """Logits (N, classes) of images (N, inputs) by one head."""
        return self.heads[head](self.body(images))

    def parameters_of(self, head: int) -> list[nn.Parameter]:
        """What a task with this head trains: the body and that head. The other heads are frozen."""
        return [*self.body.parameters(), *self.heads[head].parameters()]


@dataclass(frozen=True, kw_only=True)
class ContinualStudy(ImageStudy):
    """What every study that learns tasks one after the other needs."""

    seeds: Count = 3
    """how many seeds: permutations, initialization, batches and noise"""
    tasks: Annotated[int, Field(ge=2)] = 5
    """how many tasks are learned one after the other"""
    width: Count = 512
    """ReLUs of each of the two hidden layers"""
    # 15 passes over mnist-5000 are 240 steps; the paper's one pass over MNIST is 235.
    epochs: Count = 15
    """passes over the images of a task of permuted pixels"""
    batch_size: Count = 256
    """images a step"""
    lr: Positive = 1e-3
    """learning rate, the same in every step"""
    weight_decay: NotNegative = 1e-4
    """L2 penalty with permuted pixels"""
    variability: Positive = 0.03
    """b of the curves, the scale of NVRM's weight noise"""
    draws: Literal["independent", "cycle"] = "independent"
    """draws of the weight noise: each step its own, or one for four steps"""
    optimizer_state: Literal["kept", "new"] = "kept"
    """Adam's moments when a new permutation comes: as they are, or zero"""


def paper(**more: Any) -> dict[str, Any]:
    """Appendix C.2: MNIST that the user has, one epoch a task, ten seeds."""
    return {"data": "mnist", "width": 1024, "epochs": 1, "seeds": 10} | more


def tiny(**more: Any) -> dict[str, Any]:
    """As small as can be."""
    return {"tasks": 2, "width": 16, "epochs": 1, "seeds": 1, "batch_size": 50} | more


@dataclass(frozen=True)
class Penalty:
    """Elastic weight consolidation: lambda, where the penalty is taken, how many images its Fisher information, and
    whether that is squared gradients of mini-batches."""

    importance: float
    at_clean_weights: bool
    fisher_images: int
    of_batches: bool = False


def make_optimizer(
    parameters: Sequence[nn.Parameter], study: ContinualStudy, variability: float, seed: int, keep_clean: bool = False
) -> torch.optim.Optimizer:
    """``torch.optim.Adam`` if b is 0, else ``NVRMAdam``; with ``keep_clean`` the latter has the clean weights at hand
    under "master_param" of its state."""
    shared = {"lr": study.lr, "weight_decay": study.weight_decay}
    if variability == 0:
        return torch.optim.Adam(parameters, **shared, fused=True)
    masters = True if keep_clean else None
    noise = {"variability": variability, "draws": study.draws, "seed": seed}
    return NVRMAdam(parameters, **shared, **noise, master_weights=masters)


@torch.no_grad()
def mean(
    network: HeadedNetwork, examples: Examples, head: int, of: Callable[[Tensor, Tensor], Tensor]
) -> float:  # fmt: skip
    """The mean over examples of what a function of logits and labels sums up."""
    total = 0.0
    for chosen in torch.arange(len(examples), device=examples.labels.device).split(_IMAGES_A_PASS):
        images, labels = examples.batch(chosen)
        total += float(of(network(images, head), labels))
    return total / len(examples)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """How often the largest logit is the label's."""
    return (logits.argmax(1) == labels).sum()


def learn(
    tasks: Sequence[Task], classes: int, study: ContinualStudy, *, variability: float, seed: int,
    penalty: Penalty | None = None, advance: Callable[[float], object] = lambda share: None,
    after_task: Callable[[HeadedNetwork], object] = lambda network: None,
) -> dict[str, Any]:  # fmt: skip
    """Learn the tasks in their order. At one seed all optimizers start from the same weights and see the same batches.

    Args:
        tasks: all on one device.
        classes: logits of a head.
        study: how each task is trained.
        variability: b of NVRM-Adam; 0 is Adam.
        seed: of the initialization, the batch order and the weight noise.
        penalty: elastic weight consolidation; None: without.
        advance: of the context.
        after_task: called with the network, its weights clean, after each task has been judged.

    Returns:
        ``accuracy``: after each task the test accuracies (fractions, on clean weights) of all tasks so far, by tasks.
        ``base_loss``: after each task the mean training loss of the first one, on clean weights.

    Raises:
        ValueError: for several heads and one optimizer, which could not leave the other tasks' heads alone.
    """
    images = tasks[0].train.images
    count = 1 + max(task.head for task in tasks)
    new_optimizers = study.optimizer_state == "new"
    if count > 1 and not new_optimizers:
        raise ValueError("tasks with heads of their own need optimizers of their own")
    network = models.started(
        HeadedNetwork, images.shape[1], study.width, classes, count, seed=derive(seed, "weights")
    ).to(images.device)  # fmt: skip
    order = torch.Generator().manual_seed(derive(seed, "batches"))
    consolidation = Consolidation(penalty.importance) if penalty else None
    optimizer, accuracies, losses = None, [], []
    for number, task in enumerate(tasks):
        if optimizer is None or new_optimizers:
            # Each optimizer counts its steps from 0, so with one seed all tasks would see the same noise.
            own, keep_clean = derive(seed, f"noise of task {number}"), penalty is not None and penalty.at_clean_weights
            optimizer = make_optimizer(
                network.parameters_of(task.head), study, variability, seed=own, keep_clean=keep_clean
            )
        _train(network, task, optimizer, study, order, consolidation)
        with clean_weights(optimizer):
            if consolidation and number < len(tasks) - 1:
                few = shuffled(task.train.labels, seed, f"Fisher of task {number}")[: penalty.fisher_images]
                seen, labels = task.train.batch(few)
                consolidation.remember(
                    squared_batch_gradients(network, seen, labels, task.head, study.batch_size)
                    if penalty.of_batches
                    else diagonal_fisher(network, seen, task.head)
                )
            accuracies.append([mean(network, seen.test, seen.head, right) for seen in tasks[: number + 1]])
            losses.append(mean(network, tasks[0].train, tasks[0].head, partial(cross_entropy, reduction="sum")))
            after_task(network)
        if new_optimizers and isinstance(optimizer, NVRMAdam):
            optimizer.denoise()  # nobody else could take its noise off
        advance(1 / len(tasks))
    return {"accuracy": accuracies, "base_loss": losses}


def _train(
    network: HeadedNetwork, task: Task, optimizer: torch.optim.Optimizer, study: ContinualStudy, order: torch.Generator,
    consolidation: Consolidation | None,
) -> None:  # fmt: skip
    def step(chosen: Tensor) -> Tensor:
        images, labels = task.train.batch(chosen)
        optimizer.zero_grad()
        loss = cross_entropy(network(images, task.head), labels)
        loss.backward()
        if consolidation:  # taken at the clean weights where the optimizer has them at hand
            consolidation.add_gradients(lambda weight: optimizer.state.get(weight, {}).get("master_param", weight))
        optimizer.step()
        return loss.detach()

    for _ in fit(step, len(task.train), study, 0, task.train.labels.device, order=order):
        pass
