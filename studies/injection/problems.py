"""Fashion-MNIST, the fully connected networks and the losses of Levi et al. 2022, appendix B; and their settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from nvrm_fast.probe import CheckpointMismatch, PhaseDiagram, Plan, scan
from studies import StudyError
from studies.data import ImageData, load, standardize
from studies.fit import now
from studies.seeds import derive, shuffled
from studies.settings import Count, DataName, Positive
from studies.study import Context, DataStudy

TRAINING_SHARE = 0.6  # of all images, training and test files together

Loss = Literal["mse", "ce"]
#: name -> (loss of a batch, targets are one-hot rows)
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    # The mean over the ten outputs, without a half: with it the phases lie where Table 1 has them.
    "mse": (mse_loss, True),
    "ce": (cross_entropy, False),
}
Seed = Annotated[int, Field(ge=0, lt=2**32)]
TwoOrMore = Annotated[int, Field(ge=2)]
#: The lowest and the highest of something positive.
Range = tuple[Positive, Positive]


@dataclass(frozen=True, kw_only=True)
class InjectionStudy(DataStudy):
    """What all studies of injection nodes on images share."""

    threads: Count = 2
    """CPU threads of each process; the last digits of all numbers depend on it"""
    data: DataName = "fashion-mnist"
    """data set"""
    train_images: Count | None = None
    """how many training images (None: all)"""
    lr: Positive = 0.05
    """eta"""
    batch_size: Count = 128
    """images a step"""
    epochs: Count = 5
    """passes over the training images"""
    seed: Seed = 0
    """of split, weights, batches and noise"""


@dataclass(frozen=True)
class Problem:
    """Training and validation part as whole tensors on one device: float32 rows, targets as the loss takes them."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    @property
    def inputs(self) -> int:
        """d_input."""
        return self.train[0].shape[1]


def problem(settings: InjectionStudy, loss: str) -> Problem:
    """All images of a data set, shuffled and split 60 to 40, standardized by the training part (appendix B).

    The paper divides by the variance; the standard deviation is meant, as the phases of Table 1 show.
    """
    data = load(settings.data, settings.data_dir)
    images = torch.cat([data.train_images, data.test_images])
    labels = torch.cat([data.train_labels, data.test_labels])
    order = shuffled(labels, settings.seed, "split")
    cut = int(TRAINING_SHARE * len(order))
    train, test = order[:cut][: settings.train_images], order[cut:]
    data = replace(
        data, train_images=images[train], train_labels=labels[train], test_images=images[test], test_labels=labels[test]
    )
    train, test = parts(standardize(data, settings.device), loss)
    return Problem((train[0].flatten(1), train[1]), (test[0].flatten(1), test[1]), data.classes)


def parts(data: ImageData, loss: str) -> list[tuple[Tensor, Tensor]]:
    """Training and test part, targets as the loss takes them."""
    return [
        (images, one_hot(labels, data.classes).float() if LOSSES[loss][1] else labels)
        for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    ]


def network(inputs: int, classes: int, *, hidden: int, width: int, seed: int) -> nn.Sequential:
    """Linear layers of N(0, 1 / fan-in) weights and no bias at the start, ReLU between them, on the CPU.

    Layer "0" is the first, layer "2" the next; torch's global generator is left as it was.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = [inputs] + [width] * hidden + [classes]
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        with torch.no_grad():
            layer.weight.normal_(0, fan_in**-0.5, generator=generator)
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def scanned(
    context: Context, name: str, sigmas: list[float], loss: str, seed: int, *, hidden: int, **plan: Any
) -> dict[str, Any]:
    """The diagram of a scan of the paper's network as JSON values, its seconds and its number of training images; a
    scan that was stopped goes on.

    plan: fields of ``Plan``, besides those that the settings have.

    Raises:
        StudyError: if the checkpoint is of other data.
    """
    settings, problem = context.settings, context.prepared
    context.checkpoints.mkdir(parents=True, exist_ok=True)
    started = now(settings.device)
    model = network(problem.inputs, problem.classes, hidden=hidden, width=settings.width, seed=derive(seed, "weights"))
    plan = {"epochs": settings.epochs, "lr": settings.lr, "batch_size": settings.batch_size} | plan
    planned = Plan(tuple(sigmas), layer="0", next_layer="2", seed=derive(seed, "scan"), **plan)
    with matching():
        diagram: PhaseDiagram = scan(
            model.to(settings.device), planned, LOSSES[loss][0], problem.train, problem.test,
            checkpoint=context.checkpoints / f"{name}.pt",
        )  # fmt: skip
    return diagram.to_dict() | {"train_images": len(problem.train[0]), "seconds": now(settings.device) - started}


@contextlib.contextmanager
def matching() -> Iterator[None]:
    """A block in which a checkpoint of another scan becomes a StudyError with the remedy."""
    try:
        yield
    except CheckpointMismatch as error:
        raise StudyError(
            f"--out holds a run with other settings or data: add --fresh or name another folder.\n{error}"
        ) from None
