"""Fashion-MNIST, the fully connected networks and the losses of Levi et al. 2022, appendix B; and their options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from nvrm_fast.experiments import StudyError
from nvrm_fast.experiments.data import LOADERS, ImageData, load, standardize

TRAINING_SHARE = 0.6  # of all images, training and test files together

#: name -> (loss of a batch, targets are one-hot rows)
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    # The mean over the ten outputs, without a half: with it the phases lie where Table 1 has them.
    "mse": (mse_loss, True),
    "ce": (cross_entropy, False),
}


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


def add_arguments(parser: argparse.ArgumentParser, *, lr: float, batch_size: int, epochs: int, out: str) -> None:
    """The options that all studies of injection nodes on images share."""
    add = parser.add_argument
    add("--data", default="fashion-mnist", choices=tuple(LOADERS), help="data set (default: %(default)s)")
    add("--data-dir", metavar="FOLDER", help="folder with the data set's official files")
    add("--train-images", type=int, metavar="N", help="use only N training images (default: all)")
    add("--lr", type=float, default=lr, help="eta (default: %(default)s)")
    add("--batch-size", type=int, default=batch_size, help="images a step (default: %(default)s)")
    add("--epochs", type=int, default=epochs, help="passes over the training images (default: %(default)s)")
    add("--seed", type=int, default=0, help="of split, weights, batches and noise (default: %(default)s)")
    add("--device", default="cpu", help="torch device, such as cpu or cuda (default: %(default)s)")
    add("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    add("--fresh", action="store_true", help="start anew; by default a run that was stopped goes on")
    add("--out", default=out, metavar="FOLDER", help="where results go (default: %(default)s)")


def check(arguments: argparse.Namespace) -> None:
    """Set the threads; refuse values out of range.

    Raises:
        StudyError: naming the option.
    """
    for name in ("epochs", "batch_size", "threads", "train_images", "width"):
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            raise StudyError(f"--{name.replace('_', '-')} is {value}: choose 1 or more")
    if not (math.isfinite(arguments.lr) and arguments.lr > 0):
        raise StudyError(f"--lr is {arguments.lr}: choose more than 0")
    if not 0 <= arguments.seed < 2**32:
        raise StudyError(f"--seed is {arguments.seed}: choose a number from 0 to 2^32 - 1")
    try:
        torch.empty(0, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"--device {arguments.device} cannot be used here ({reason}): try --device cpu") from None
    torch.set_num_threads(arguments.threads)


def problem(arguments: argparse.Namespace, loss: str) -> Problem:
    """All images of a data set, shuffled and split 60 to 40, standardized by the training part (appendix B).

    The paper divides by the variance; the standard deviation is meant, as the phases of Table 1 show.
    """
    data = load(arguments.data, arguments.data_dir)
    images = torch.cat([data.train_images, data.test_images])
    labels = torch.cat([data.train_labels, data.test_labels])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(arguments.seed))
    cut = int(TRAINING_SHARE * len(order))
    train, test = order[:cut][: arguments.train_images], order[cut:]
    data = replace(
        data, train_images=images[train], train_labels=labels[train], test_images=images[test], test_labels=labels[test]
    )
    data = standardize(data, arguments.device)
    return Problem(_part(data, "train", loss), _part(data, "test", loss), data.classes)


def _part(data: ImageData, part: str, loss: str) -> tuple[Tensor, Tensor]:
    images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
    rows = LOSSES[loss][1]
    return images.flatten(1), one_hot(labels, data.classes).float() if rows else labels


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
