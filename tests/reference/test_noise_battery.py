"""What release/noise_battery.py gives to the tests of randomness is the library's noise, in the order that it says."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from nvrm_fast.reference.distribution import gaussian
from nvrm_fast.reference.philox import ROUNDS, philox4x32

SOURCE = Path(__file__).parents[2] / "release/noise_battery.py"
COMPILER = os.environ.get("CXX", "c++").split()[0]
SEED = 5 + (9 << 32)
CHUNK = 2**14

pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")


def load_battery():
    spec = importlib.util.spec_from_file_location("noise_battery", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return load_battery().compiled(ROUNDS, tmp_path_factory.mktemp("battery"))


def first(program, order, kind, count) -> np.ndarray:
    with subprocess.Popen([program, order, kind, str(SEED)], stdout=subprocess.PIPE) as process:
        data = process.stdout.read(4 * count)
        process.kill()
    return np.frombuffer(data, dtype=np.uint32)


def expected(order: str) -> torch.Tensor:
    """The first words of an order, by the reference: int64."""
    i = torch.arange(CHUNK)
    key = (5, 9)
    if order == "elements":  # 16 blocks make a superblock
        words = philox4x32((i, 0, 3, 5), key)
        return torch.stack(words).view(4, -1, 16).transpose(0, 1).flatten()
    if order == "steps":
        return torch.cat(philox4x32((torch.tensor(0), 0, 3, i), key))
    if order == "streams":
        return torch.cat(philox4x32((torch.tensor(0), 0, i, 5), key))
    if order == "interleaved":
        return torch.stack(philox4x32((i >> 8, 0, i & 15, (i >> 4) & 15), key), dim=1).flatten()
    seeds = [SEED, *(SEED ^ (1 << bit) for bit in range(64))]
    low, high = (torch.tensor([(seed >> shift) & 0xFFFFFFFF for seed in seeds]) for shift in (0, 32))
    return torch.cat([torch.cat(philox4x32((torch.tensor(block), 0, 3, 5), (low, high))) for block in range(50)])


@pytest.mark.parametrize("order", ["elements", "steps", "streams", "interleaved", "seeds"])
def test_words_are_the_librarys(program, order):
    words = expected(order)
    assert np.array_equal(first(program, order, "words", len(words)), words.numpy().astype(np.uint32))


def test_bytes_of_gaussian_values(program):
    """Rows of 16: first values of 16 words, then their second ones; a byte says in which 256th of the law it lies."""
    words = expected("steps")[:8192]
    rows = torch.stack([value.view(-1, 16) for value in gaussian(words)], dim=1).flatten().double().numpy()
    found = first(program, "steps", "gaussian", 4096).view(np.uint8)
    probability = 256 * scipy.stats.norm.cdf(rows)
    # Thresholds are rounded to float32.
    assert ((found <= probability + 1e-4) & (probability - 1e-4 <= found.astype(float) + 1)).all()


def test_lowest_bits(program):
    bits = (expected("streams")[:1024] & 1).numpy().astype(np.uint8)
    packed = np.packbits(bits, bitorder="little").view(np.uint32)
    assert np.array_equal(first(program, "streams", "lowest", 32), packed)


@pytest.mark.skipif(shutil.which("dieharder") is None, reason="dieharder is not installed")
def test_dieharder_is_understood(program):
    """Two short tests: p-values come out, none below the rate of one in a million at which dieharder fails."""
    battery = load_battery()
    battery.DIEHARDER = [(100, 0), (200, 2)]
    result = battery.dieharder([str(program), "elements", "words"], 1)
    assert result["results"] == 2 and result["failed"] == []
