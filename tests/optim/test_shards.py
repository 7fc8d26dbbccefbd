"""Where a block of a tensor lies: offsets and runs, against the indices themselves."""

import itertools

import pytest
import torch

from nvrm_fast.optim.shards import WHOLE, place_of_block

SHAPES = [(4,), (3, 4), (2, 3, 4), (3, 1, 4), (1, 3, 4), (2, 3, 2, 2)]


def blocks(shape):
    for start in itertools.product(*(range(size) for size in shape)):
        for sizes in itertools.product(*(range(1, size - begin + 1) for size, begin in zip(shape, start))):
            yield sizes, start


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_block(shape):
    index = torch.arange(torch.Size(shape).numel()).view(shape)
    served = refused = 0
    for sizes, start in blocks(shape):
        elements = index[tuple(slice(begin, begin + size) for begin, size in zip(start, sizes))].flatten()
        try:
            offset, length, stride = place_of_block(shape, sizes, start)
        except ValueError:
            # One distance between runs cannot reach them: there are at least two.
            steps = elements.diff()
            assert len(steps[steps != 1].unique()) > 1
            refused += 1
            continue
        k = torch.arange(len(elements))
        assert torch.equal(elements, offset + (k // length * stride + k % length if length else k)), (sizes, start)
        served += 1
    assert served > refused


def test_whole_and_empty():
    assert place_of_block((3, 4), (3, 4), (0, 0)) == WHOLE == place_of_block((3, 4), (0, 4), (3, 0))
