"""Parameters that are shards of a distributed tensor (torch.distributed.tensor): what lies here, and where it belongs.

A shard must draw what it would have drawn in the whole tensor, so the kernels are told which elements of it they see.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


class Place(NamedTuple):
    """Where a parameter's elements lie in its full tensor, in row-major order (see nvrm_fast/contract/arguments.py)."""

    offset: int
    run_length: int
    run_stride: int


WHOLE = Place(0, 0, 0)


_PLAIN = frozenset((Tensor, torch.nn.Parameter))


def is_distributed(tensor: Tensor) -> bool:
    """Whether it is a DTensor; without importing torch.distributed for those who have none."""
    if type(tensor) in _PLAIN:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_tensor(tensor: Tensor) -> Tensor:
    """The memory of this process: what the kernels read and write."""
    return cast("DTensor", tensor)._local_tensor if is_distributed(tensor) else tensor


def local_gradient(param: Tensor, grad: Tensor, name: object) -> Tensor:
    """This process's part of the gradient. Raises ValueError if it is cut in another way than the parameter."""
    if not is_distributed(param):
        return grad
    placements = cast("DTensor", param).placements
    if not is_distributed(grad) or cast("DTensor", grad).placements != placements:
        raise ValueError(f"parameter {name} has placements {placements}, and its gradient others: redistribute() it")
    grad = local_tensor(grad)
    # Runs (see Place) are told to the kernels for contiguous memory only.
    return grad.contiguous() if place_of(param).run_length else grad


def place_of(param: Tensor) -> Place:
    """Raises ValueError for placements that cannot be served."""
    if not is_distributed(param):
        return WHOLE
    shards = cast("DTensor", param)
    return _place_on_mesh(tuple(shards.shape), shards.device_mesh, tuple(shards.placements))


@functools.lru_cache(maxsize=4096)
def _place_on_mesh(shape: tuple[int, ...], mesh: DeviceMesh, placements: tuple[Any, ...]) -> Place:
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return WHOLE  # this process has no part of the mesh, and nothing of the tensor
    start, sizes = [0] * len(shape), list(shape)
    for dim, size in enumerate(shape):
        kept = torch.arange(size).view([1] * dim + [size])  # placements cut along their own dimension
        for placement, chunks, mine in zip(placements, mesh.shape, coordinate):
            if placement.is_partial():
                raise ValueError(f"placements {placements} are not supported: the parts of a sum are no weights")
            if getattr(placement, "dim", None) == dim:
                pieces, _ = placement._split_tensor(kept, chunks, with_padding=False, contiguous=False)
                kept = pieces[mine] if mine < len(pieces) else kept.narrow(dim, 0, 0)
        kept = kept.flatten()
        sizes[dim] = len(kept)
        if len(kept):
            start[dim] = int(kept[0])
            # What torch calls a strided shard is one block only after a second cut.
            if not torch.equal(kept, torch.arange(len(kept)) + start[dim]):
                raise ValueError(
                    f"placements {placements} are not supported: this shard is not one block of the tensor"
                )
    return place_of_block(shape, sizes, start)


def place_of_block(shape: Sequence[int], sizes: Sequence[int], start: Sequence[int]) -> Place:
    """The place of the block of `sizes` that begins at `start` in a tensor of `shape`.

    Raises ValueError for blocks that are not runs at one distance.
    """
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    cut = [d for d in range(len(shape)) if sizes[d] != shape[d]]
    if 0 in sizes or not cut:
        return WHOLE
    offset = sum(begin * stride for begin, stride in zip(start, strides))
    # A run goes through everything behind the last dimension that is cut, which is whole.
    run_length = sizes[cut[-1]] * strides[cut[-1]]
    counted = [d for d in range(cut[-1]) if sizes[d] != 1]
    if not counted:
        return Place(offset, 0, 0)
    if any(sizes[d] != shape[d] for d in range(counted[0] + 1, counted[-1] + 1)):
        raise ValueError(f"a block of {list(sizes)} in a tensor of {list(shape)} is cut in too many dimensions")
    return Place(offset, run_length, strides[counted[-1]])
