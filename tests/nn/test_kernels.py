"""The native kernels against the reference: noise, activations and gradients for s bit for bit, on all lanes.

Sums over examples or neurons are added in another order: 1e-5 of the largest one and of the terms' size.
"""

import itertools

import pytest
import torch
from direction_operands import operands
from law_parameters import PARAMETERS
from native import each_instruction_set

from nvrm_fast.ops import direction as direction_ops  # noqa: F401
from nvrm_fast.ops import noise as noise_ops  # noqa: F401
from nvrm_fast.ops import registry
from nvrm_fast.reference import activation
from nvrm_fast.reference import direction_noise as reference

FAN_INS = (2, 3, 4, 30, 1024)


def the_same(inputs, settings, slopes=True):
    """On every instruction set."""
    native = torch.ops.nvrm_fast
    forward = reference.direction_noise(*inputs, *settings)
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0].dtype)
    backward = reference.direction_noise_backward(grad, *inputs, *settings, slopes)
    for _ in each_instruction_set():
        assert torch.equal(native.direction_noise(*inputs, *settings), forward)
        found = native.direction_noise_backward(grad, *inputs, *settings, slopes)
        assert torch.equal(found[0], backward[0])
        if settings.tangent_given and settings.law:
            assert torch.equal(found[1], backward[1])
        for a, b in zip(found[1:], backward[1:]):
            assert a.shape == b.shape and a.dtype == b.dtype
            if b.numel():
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(b.abs().max().item(), 1))


@pytest.mark.parametrize("direction", PARAMETERS)
def test_native_is_the_reference(direction):
    """Every law with every magnitude, by neuron and by position, given tangent parts and own ones."""
    shapes = [((5, 37, 1), 1), ((3, 4, 1), 2), ((2, 6, 19), 3)]
    for magnitude, (shape, groups), given in itertools.product(range(3), shapes, (False, True)):
        the_same(*operands(direction, magnitude, shape, groups=groups, given=given))


@pytest.mark.parametrize("fan_in", FAN_INS)
def test_every_length_of_weight_vectors(fan_in):
    for direction in (1, 2, 5):
        the_same(*operands(direction, 0, (9, 20, 1), fan_in=fan_in))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    for direction, shape in itertools.product((0, 1, 3), ((5, 37, 1), (2, 3, 35))):
        the_same(*operands(direction, 1, shape, dtype=dtype))


def test_options_and_empty_tensors():
    the_same(*operands(3, 0, (4, 20, 1), bias=False), slopes=False)
    for shape in ((0, 5, 1), (3, 0, 1), (2, 3, 0)):
        the_same(*operands(1, 1, shape))


def test_more_neurons_and_rows_than_a_tile():
    the_same(*operands(2, 1, (130, 515, 1)))
    the_same(*operands(2, 1, (2, 70, 40), groups=2))


def test_elements_across_a_multiple_of_2_to_the_32():
    for offset in (2**32 - 50, 2**40 - 7, 2**56 - 185):
        the_same(*operands(1, 2, (5, 37, 1), offset=offset))


def test_shards_of_the_batch_draw_their_part():
    inputs, settings = operands(1, 1, (12, 10, 1))
    whole = torch.ops.nvrm_fast.direction_noise(*inputs, *settings)
    part = [x[5:] if i < 2 else x for i, x in enumerate(inputs)]
    moved = settings._replace(offset=50)
    assert torch.equal(torch.ops.nvrm_fast.direction_noise(*part, *moved), whole[5:])


def test_sums_do_not_depend_on_threads(threads):
    if registry._native is None:
        pytest.skip("native kernels not built")
    inputs, settings = operands(3, 1, (200, 300, 1))
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(torch.ops.nvrm_fast.direction_noise_backward(grad, *inputs, *settings, True))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result))


def test_gaussian_like():
    like, key = torch.zeros(7, 300), torch.tensor([2**62 + 1])
    expected = activation.gaussian_like(like, key, 5, 6, 77)
    for _ in each_instruction_set():
        assert torch.equal(torch.ops.nvrm_fast.gaussian_like(like, key, 5, 6, 77), expected)


BAD = [
    (0, lambda v: v[0], ValueError, "s must have shape"),
    (0, lambda v: v.long(), TypeError, "s must be a floating-point"),
    (9, lambda v: v.int(), TypeError, "key must be an int64"),
    (1, lambda v: v[:1], ValueError, "sq_norm must have shape"),
    (1, lambda v: v.expand(-1, 2, -1), ValueError, "sq_norm must have a number of groups"),
    (12, lambda v: -1, ValueError, "offset must be in"),
    (13, lambda v: 9, ValueError, "law must be a code"),
    (14, lambda v: 3, ValueError, "magnitude must be a code"),
    (15, lambda v: 1, ValueError, "fan_in must be at least 2"),
    (10, lambda v: 2**32, ValueError, r"stream must be in \[0, 2\^32\)"),
    (19, lambda v: True, ValueError, "a given tangent part must have s's shape"),
]


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("place, spoil, error, message", BAD, ids=[b[3] for b in BAD])
def test_bad_arguments(backend, place, spoil, error, message):
    if backend == "native" and registry._native is None:
        pytest.skip("native kernels not built")
    inputs, settings = operands(1, 1, (5, 37, 1))
    arguments = [*inputs, *settings]
    arguments[place] = spoil(arguments[place])
    call = reference.direction_noise if backend == "reference" else torch.ops.nvrm_fast.direction_noise
    with pytest.raises(error, match=message):
        call(*arguments)
