"""What the tests of studies share."""

import official_files
import pytest
import torch


@pytest.fixture(autouse=True)
def keep_threads():
    """A study sets torch's threads; the next test has those that were there before."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mnist(tmp_path):
    """A folder with a small data set in MNIST's file format."""
    folder = tmp_path / "images"
    folder.mkdir()
    official_files.write_mnist(folder)
    return folder
