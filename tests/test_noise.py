"""nvrm_fast.noise: the same bits from every implementation, any stretch, any number of threads; bad arguments."""

import pytest
import torch
from native import each_instruction_set

import nvrm_fast
from nvrm_fast import noise
from nvrm_fast.contract.distributions import DISTRIBUTIONS

SIZES = (0, 1, 15, 16, 17, 127, 128, 129, 4097, 65535, 65536, 65537)
everything = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


@everything
def test_native_is_the_reference(distribution):
    for numel in SIZES:
        for offset in (0, 1, 77, 128, 2**36 - 100):
            arguments = dict(
                seed=2**64 - 5, stream=2**32 - 1, step=3, distribution=distribution, scale=0.05, offset=offset
            )
            reference = noise(numel, **arguments, backend="reference")
            for name in each_instruction_set():
                native = noise(numel, **arguments, backend="native")
                assert torch.equal(native, reference), (numel, offset, name)
            assert reference.isfinite().all()


@everything
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_stretch_is_a_slice(distribution, backend):
    whole = noise(5000, seed=1, stream=2, step=3, distribution=distribution, offset=1000, backend=backend)
    for begin, end in ((0, 1), (1, 129), (24, 152), (127, 128), (128, 4999), (4999, 5000)):
        part = noise(
            end - begin, seed=1, stream=2, step=3, distribution=distribution, offset=1000 + begin, backend=backend
        )
        assert torch.equal(part, whole[begin:end])


@everything
def test_threads_change_nothing(distribution, threads):
    draws = []
    for count in (1, 2, 7):
        threads(count)
        draws.append(noise(300_001, seed=4, distribution=distribution, offset=13, backend="native"))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


@everything
def test_every_integer_matters(distribution):
    base = dict(seed=5, stream=5, step=5, offset=0)
    draws = [noise(256, distribution=distribution, **base)]
    for name, value in (("seed", 6), ("seed", 5 + 2**32), ("stream", 6), ("step", 6), ("offset", 2**40)):
        draws.append(noise(256, distribution=distribution, **{**base, name: value}))
    for i, a in enumerate(draws):
        for b in draws[:i]:
            # Signs agree in half of their places; five standard deviations are 0.16.
            assert (a == b).float().mean() < (0.66 if distribution == "rademacher" else 0.05)


def test_layout_of_blocks():
    """Element i uses block 16 (i // 128) + i % 16 and lane (i % 128) // 16, spelled out with uniform noise."""
    from nvrm_fast.reference import philox4x32

    values = noise(512, seed=7 + (8 << 32), stream=9, step=10, distribution="uniform")
    for i in (0, 1, 15, 16, 31, 32, 127, 128, 300, 511):
        block, lane = 16 * (i // 128) + i % 16, (i % 128) // 16
        word = int(philox4x32((torch.tensor(block), 0, 9, 10), (7, 8))[lane // 2])
        half = word & 0xFFFF if lane % 2 else word >> 16
        assert float(values[i]) == (half + 0.5) * 2.0**-15 - 1


def test_scale_is_multiplied_last():
    unit = noise(1000, seed=1)
    assert torch.equal(noise(1000, seed=1, scale=-0.3), unit * -0.3)
    assert (noise(1000, seed=1, scale=0.0) == 0).all()


def test_torchs_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    noise(1000, seed=1)
    assert torch.equal(torch.rand(4), expected)


def test_use_backend_holds_inside_its_block_only():
    from nvrm_fast.ops import registry

    device = torch.device("cpu")
    outside = registry.choose("fill_noise_", device)
    with nvrm_fast.use_backend("reference"):
        assert registry.choose("fill_noise_", device) == "reference"
        with nvrm_fast.use_backend("native"):
            assert registry.choose("fill_noise_", device) == "native"
            assert registry.choose("fill_noise_", device, "reference") == "reference"
        assert registry.choose("fill_noise_", device) == "reference"
    assert registry.choose("fill_noise_", device) == outside
    with pytest.raises(KeyError), nvrm_fast.use_backend("reference"):
        raise KeyError
    assert registry.choose("fill_noise_", device) == outside


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(numel=-1), ValueError, "numel must be in"),
        (dict(numel=1.5), TypeError, "numel must be an int"),
        (dict(seed=-1), ValueError, "seed must be in"),
        (dict(seed=2**64), ValueError, "seed must be in"),
        (dict(seed=True), TypeError, "seed must be an int"),
        (dict(stream=2**32), ValueError, "stream must be in"),
        (dict(step=-1), ValueError, "step must be in"),
        (dict(offset=-1), ValueError, "offset must be in"),
        (dict(scale=float("nan")), ValueError, "scale must be finite"),
        (dict(distribution="cauchy"), ValueError, "distribution must be one of gaussian, uniform, laplace"),
        (dict(backend="cuda"), ValueError, "backend must be one of"),
        (dict(backend="triton"), RuntimeError, "cannot serve fill_noise_ on cpu"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        noise(**{"numel": 10, "seed": 0, **arguments})
