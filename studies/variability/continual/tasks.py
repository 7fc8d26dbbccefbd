"""The tasks of continual learning: one data set seen through pixel permutations, or split into pairs of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from studies import StudyError
from studies.data import ImageData
from studies.seeds import derive


@dataclass(frozen=True)
class Examples:
    """The images of one task. All tasks share the pixels in memory; a mini-batch is permuted when it is asked for."""

    images: Tensor  # (N, pixels) float32, of the whole data set
    labels: Tensor  # (M,) int64, numbers of the logits of the task's head
    rows: Tensor | None = None  # (M,) int64: which images are the task's; None: all
    pixels: Tensor | None = None  # (pixels,) int64: the pixel that comes at each place; None: as they are

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, pixels) and labels (B,) of the examples with these numbers, (B,) int64."""
        images = self.images[chosen if self.rows is None else self.rows[chosen]]
        return images if self.pixels is None else images[:, self.pixels], self.labels[chosen]


@dataclass(frozen=True)
class Task:
    """One task and the number of the output layer that it trains and is judged by."""

    train: Examples
    test: Examples
    head: int


def permuted(data: ImageData, count: int, seed: int) -> list[Task]:
    """Permuted MNIST (NVRM paper, appendix C.2): every task has a random permutation of the pixels, and one head serves
    all.

    Args:
        data: as ``standardize`` gives it.
        count: how many tasks.
        seed: of the permutations; a seed's first tasks are the same for every count.
    """
    train, test = data.train_images.flatten(1), data.test_images.flatten(1)
    generator = torch.Generator().manual_seed(derive(seed, "permutations"))
    orders = [torch.randperm(train.shape[1], generator=generator).to(train.device) for _ in range(count)]
    return [
        Task(Examples(train, data.train_labels, pixels=order), Examples(test, data.test_labels, pixels=order), head=0)
        for order in orders
    ]


def split(data: ImageData, count: int, seed: int) -> list[Task]:
    """Split MNIST (NVRM paper, appendix C.2; Zenke et al. 2017): classes 0 and 1, then 2 and 3, ..., a head for each.

    Args:
        data: as ``standardize`` gives it.
        count: how many tasks.
        seed: not looked at; nothing about these tasks is random.

    Raises:
        StudyError: if the data set has not so many pairs of classes, or no image of one.
    """
    if 2 * count > data.classes:
        raise StudyError(f"--tasks {count} need {2 * count} classes, but {data.name} has {data.classes}: ask for fewer")

    def pair(images: Tensor, labels: Tensor, first: int) -> Examples:
        rows = ((labels == first) | (labels == first + 1)).nonzero().flatten()
        if not len(rows):
            raise StudyError(f"{data.name} has no image of the classes {first} and {first + 1}: ask for fewer --tasks")
        return Examples(images.flatten(1), labels[rows] - first, rows=rows)

    return [
        Task(
            pair(data.train_images, data.train_labels, 2 * number),
            pair(data.test_images, data.test_labels, 2 * number),
            head=number,
        )
        for number in range(count)
    ]


#: (data, number of tasks, seed) to tasks, by the name on the command line.
TASKS: dict[str, Callable[[ImageData, int, int], list[Task]]] = {"permuted": permuted, "split": split}
