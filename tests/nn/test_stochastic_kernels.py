"""The native kernels of stochastic activations against the reference: activations and gradients bit for bit.

Sums over objects or neurons are added in another order: 1e-5 of the largest one and of the terms' size.
"""

import itertools

import pytest
import torch
from native import each_instruction_set
from stochastic_operands import operands, the_same

from nvrm_fast.contract.layers import ACTIVATIONS, SUMS
from nvrm_fast.ops import registry
from nvrm_fast.ops import stochastic as stochastic_ops  # noqa: F401
from nvrm_fast.reference import stochastic

#: Dense and convolutional, whole vectors and not, one tile and many, windows of noise that begin within rows.
SHAPES = [(5, 37, 1), (70, 16, 1), (3, 300, 1), (2, 6, 35), (3, 2, 160), (1, 1, 1)]


def native_is_the_reference(*arguments):
    native = torch.ops.nvrm_fast
    the_same(*arguments, native.stochastic_activation, native.stochastic_activation_backward)


@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_native_is_the_reference(sums):
    for _ in each_instruction_set():
        for shape, activation in itertools.product(SHAPES, ACTIVATIONS.values()):
            native_is_the_reference(*operands(shape, sums, activation))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    for _ in each_instruction_set():
        for shape, sums in itertools.product(((5, 37, 1), (2, 3, 35)), SUMS.values()):
            native_is_the_reference(*operands(shape, sums, dtype=dtype))


def test_empty_tensors():
    for _ in each_instruction_set():
        for shape, sums in itertools.product(((0, 5, 1), (3, 0, 1), (2, 3, 0)), SUMS.values()):
            native_is_the_reference(*operands(shape, sums))


def test_shards_of_the_batch_draw_their_part():
    z, key, _, _, settings = operands((12, 10, 1), 0)
    whole, _ = torch.ops.nvrm_fast.stochastic_activation(z, key, *settings)
    for offset in (2**32 - 50, 2**40 - 7):
        for _ in each_instruction_set():
            native_is_the_reference(*operands((5, 37, 1), 2, offset=offset))
    part, _ = torch.ops.nvrm_fast.stochastic_activation(z[5:], key, *settings._replace(offset=50))
    assert torch.equal(part, whole[5:])


def test_results_do_not_depend_on_threads(threads):
    for sums in SUMS.values():
        z, key, grad, grad_sums, settings = operands((300, 130, 1), sums)
        results = []
        for count in (1, 2, 3):
            threads(count)
            y, sum_ = torch.ops.nvrm_fast.stochastic_activation(z, key, *settings)
            dz = torch.ops.nvrm_fast.stochastic_activation_backward(grad, grad_sums, z, key, *settings)
            results.append((y, sum_, dz))
        assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result))


def test_not_a_number_comes_through():
    for _ in each_instruction_set():
        for place in range(2):
            z, key, _, _, settings = operands((1, 1, 1), 2)
            z[0, place, 0] = float("nan")
            y, sums = torch.ops.nvrm_fast.stochastic_activation(z, key, *settings)
            assert y.isnan().all() and sums.isnan().all() == (place == 1)


BAD = [
    (0, lambda v: v[0], ValueError, "z must have shape"),
    (0, lambda v: v[:, 1:], ValueError, "z must have shape"),
    (0, lambda v: v.long(), TypeError, "z must be a floating-point"),
    (1, lambda v: v.int(), TypeError, "key must be an int64"),
    (2, lambda v: 2**32, ValueError, r"stream must be in \[0, 2\^32\)"),
    (4, lambda v: -1, ValueError, "offset must not be negative"),
    (5, lambda v: 2, ValueError, "activation must be a code"),
    (6, lambda v: 5, ValueError, "sums must be a code"),
]


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("place, spoil, error, message", BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_arguments(backend, place, spoil, error, message):
    if backend == "native" and registry._native is None:
        pytest.skip("native kernels not built")
    z, key, _, _, settings = operands((5, 37, 1), 1)
    arguments = [z, key, *settings]
    arguments[place] = spoil(arguments[place])
    module = stochastic if backend == "reference" else torch.ops.nvrm_fast
    with pytest.raises(error, match=message):
        module.stochastic_activation(*arguments)
