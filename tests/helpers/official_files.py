"""Writers of the data sets' official file formats, as their web pages describe them."""

import gzip
import pickle
import struct

import torch


def some_images(count, shape, classes, seed=0):
    """uint8 images with a class-dependent bright stripe, so that a network can learn them, and int64 labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 80, (count, *shape), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels):
        image[..., int(label) % shape[-1]] += 150
    return images, labels


def write_idx(path, values):
    """Big-endian header, then the bytes; gzip if the name ends in .gz."""
    header = struct.pack(">BBBB", 0, 0, 8, values.dim()) + struct.pack(f">{values.dim()}i", *values.shape)
    content = header + values.to(torch.uint8).numpy().tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, train=200, test=60, size=12, end=""):
    """The four files of MNIST; returns what was written."""
    written = []
    for part, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = some_images(count, (size, size), 10, seed)
        write_idx(folder / f"{part}-images-idx3-ubyte{end}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{end}", labels)
        written += [images, labels]
    return written


def write_cifar_python(path, images, labels, label_key):
    """A pickle of protocol 2 with bytes as keys, rows of 3,072 pixels and a list of labels."""
    batch = {b"data": images.reshape(len(images), -1).numpy(), label_key: labels.tolist(), b"batch_label": b"some"}
    path.write_bytes(pickle.dumps(batch, protocol=2))


def write_cifar_binary(path, images, labels, coarse=None):
    """Records of one label byte (CIFAR-10) or two (CIFAR-100: coarse, fine) and 3,072 pixels."""
    columns = [images.reshape(len(images), -1)]
    for column in (labels, coarse):
        if column is not None:
            columns.insert(0, column.to(torch.uint8).unsqueeze(1))
    path.write_bytes(torch.cat(columns, 1).numpy().tobytes())
