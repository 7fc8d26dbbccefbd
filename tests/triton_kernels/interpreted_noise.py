"""nvrm_fast.noise from the Triton kernel, in the interpreter: the reference's bits. Started by test_interpreted.py."""

import pytest
import torch
import triton
import triton.language as tl

from nvrm_fast import noise
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.ops import registry
from nvrm_fast.reference.philox import philox4x32
from nvrm_fast.triton.philox import philox4x32 as triton_philox

CPU = torch.device("cpu")


def test_the_interpreter_is_on():
    assert registry.choose("fill_noise_", CPU, "triton") == "triton"


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_triton_is_the_reference(distribution):
    for numel in (0, 1, 15, 17, 127, 129, 1024, 1025, 4097):
        for offset in (0, 77, 128, 2**36 - 100, 2**39 - 1025):
            arguments = dict(
                seed=2**64 - 5, stream=2**32 - 1, step=2**32 - 2, distribution=distribution, scale=-0.05, offset=offset
            )
            reference = noise(numel, **arguments, backend="reference")
            assert torch.equal(noise(numel, **arguments, backend="triton"), reference), (numel, offset)


def test_several_programs():
    for numel, offset in ((16384, 0), (16384, 1), (40_000, 16_383)):
        a, b = (noise(numel, seed=3, offset=offset, backend=backend) for backend in ("triton", "reference"))
        assert torch.equal(a, b)


def test_the_step_wraps_at_32_bits():
    from nvrm_fast.ops.step import fill_noise_

    a, b = torch.empty(300), torch.empty(300)
    fill_noise_(a, -1, 7, 2**32 + 5, 1, 1.0, 3, backend="triton")
    fill_noise_(b, -1, 7, 5, 1, 1.0, 3, backend="reference")
    assert torch.equal(a, b)


@triton.jit
def philox_kernel(words, out):
    c0 = tl.load(words).to(tl.uint32)
    c1 = tl.load(words + 1).to(tl.uint32)
    c2 = tl.load(words + 2).to(tl.uint32)
    c3 = tl.load(words + 3).to(tl.uint32)
    w0, w1, w2, w3 = triton_philox(c0, c1, c2, c3, tl.load(words + 4).to(tl.uint32), tl.load(words + 5).to(tl.uint32))
    tl.store(out, w0.to(tl.int64))
    tl.store(out + 1, w1.to(tl.int64))
    tl.store(out + 2, w2.to(tl.int64))
    tl.store(out + 3, w3.to(tl.int64))


def test_published_vectors_of_philox():
    """Random123's known answers, through the device function itself."""
    known = (
        ([0] * 6, [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]),
        ([0xFFFFFFFF] * 6, [0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0],
            [0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A],
        ),
    )
    for words, answer in known:
        out = torch.zeros(4, dtype=torch.int64)
        philox_kernel[(1,)](torch.tensor(words), out)
        assert out.tolist() == answer
        counter = tuple(torch.tensor([w]) for w in words[:4])
        assert [int(w) for w in philox4x32(counter, tuple(words[4:]))] == answer


def test_bad_noise_targets():
    from nvrm_fast.ops.step import fill_noise_

    good = (0, 0, 0, 0, 1.0, 0)
    for target, error, message in (
        (torch.zeros(4).double(), TypeError, "self must be float32"),
        (torch.zeros(4, 4).t()[1:], ValueError, "self must be contiguous"),
    ):
        with pytest.raises(error, match=message):
            fill_noise_(target, *good, backend="triton")
    target = torch.zeros(4)
    for bad, message in (
        ((0, 0, 0, 0, 1.0, -1), "offset must not be negative"),
        ((0, 0, 0, 9, 1.0, 0), "distribution must be a code"),
        ((0, 2**32, 0, 0, 1.0, 0), "stream must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            fill_noise_(target, *bad, backend="triton")
    assert (target == 0).all()
