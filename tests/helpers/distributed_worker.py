"""Distributed trainings; started by test_distributed.py, which compares what every world size leaves.

python distributed_worker.py FOLDER WORLD_SIZE...

Ranks are forked from one process, which has imported torch by then; none of its threads runs yet.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # FSDP and DTensor import it late, in three seconds of every rank
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from nvrm_fast import NVRMSGD, NVRMAdamW, WeightNoise

#: Sizes that no world size divides, one smaller than the largest world, a vector and a matrix of one column.
SHAPES = {"matrix": (7, 10), "small": (3, 4), "kernel": (6, 4, 3, 3), "vector": (9,), "column": (5, 1)}
STEPS = 4


class Bag(nn.Module):
    """Parameters and nothing else: gradients are given, so that only the optimizer can make a difference."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))


def gradient(name: str, step: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * step + sum(map(ord, name)))
    return torch.randn(SHAPES[name], generator=generator).to(dtype)


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def cut_like(param: DTensor, grad: Tensor) -> DTensor:
    """The gradient as a tensor distributed like its parameter: the last mesh dimension cuts first, as FSDP over tensor
    parallel has it (elsewhere no two mesh dimensions cut the same dimension, and the order is all one)."""
    mesh, placements, part = param.device_mesh, param.placements, grad
    for placement, chunks, mine in reversed(list(zip(placements, mesh.shape, mesh.get_coordinate()))):
        if not placement.is_replicate():
            pieces = part.chunk(chunks, placement.dim)
            part = pieces[mine] if mine < len(pieces) else part.narrow(placement.dim, 0, 0)
    return DTensor.from_local(
        part.contiguous(), mesh, placements, run_check=False, shape=param.shape, stride=param.stride()
    )


def train(model: nn.Module, optimizer, steps: range = range(STEPS)) -> dict[str, Tensor]:
    """Steps with the same gradients everywhere, a schedule of b and a look at the clean weights; what is left."""
    left = {}
    for step in steps:
        for name, param in model.named_parameters():
            if name == "small" and step == 0:
                continue  # its first gradient comes late
            grad = gradient(name, step, param.dtype)
            param.grad = cut_like(param, grad) if isinstance(param, DTensor) else grad
        optimizer.param_groups[0]["variability"] = 0.1 / (step + 1)
        optimizer.step()
        if step == 2:
            with optimizer.denoised():
                left.update({f"clean {name}": whole(param) for name, param in model.named_parameters()})
    return {**left, **all_of(model, optimizer)}


def all_of(model: nn.Module, optimizer) -> dict[str, Tensor]:
    """Parameters with noise on and off, and the state."""
    left = {f"noisy {name}": whole(param) for name, param in model.named_parameters()}
    for name, param in model.named_parameters():
        for key, value in optimizer.state[param].items():
            if isinstance(value, Tensor):
                left[f"{key} {name}"] = whole(value)
    with optimizer.denoised():
        left.update({f"end {name}": whole(param) for name, param in model.named_parameters()})
    return left


def optimizer_of(model: nn.Module, kind: str):
    if kind == "sgd":
        return NVRMSGD(model.named_parameters(), lr=0.1, momentum=0.9, noise="laplace", draws="cycle", seed=5)
    if kind == "wrapped":
        return WeightNoise(torch.optim.RMSprop(model.named_parameters(), lr=0.01), seed=5, exclude="column")
    if kind == "by rows":
        options = dict(lr=0.1, momentum=0.9, seed=5, relative="rms", per="row", draws="cycle")
        return NVRMSGD(model.named_parameters(), **options)
    if kind == "by tensors":
        return NVRMAdamW(model.named_parameters(), lr=0.01, seed=5, relative="absmax", exclude="column")
    if kind == "wrapped by rows":
        return WeightNoise(torch.optim.SGD(model.named_parameters(), lr=0.1), seed=5, relative="rms", per="row")
    return NVRMAdamW(model.named_parameters(), lr=0.01, seed=2**63 + 1)


def sharded(kind: str, dtype: torch.dtype, place: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    model = Bag(dtype)
    place(model)
    return train(model, optimizer_of(model, kind))


def over_second_dimension(param: nn.Parameter) -> Shard:
    return Shard(1 if param.dim() > 1 and param.shape[1] % 4 == 0 else 0)  # FSDP cuts it in equal parts only


def fully_sharded_2d(model: nn.Module, world: int) -> None:
    """Hybrid: shards within a group, copies across groups."""
    mesh = init_device_mesh("cpu", (2, world // 2) if world > 1 else (1, 1), mesh_dim_names=("replicate", "shard"))
    fully_shard(model, mesh=mesh)


def tensor_parallel(model: nn.Module, world: int, dim: int) -> None:
    mesh = init_device_mesh("cpu", (world,))
    for name, param in list(model.named_parameters()):
        place = Shard(dim if param.dim() > dim else 0)
        setattr(model, name, nn.Parameter(distribute_tensor(param.detach(), mesh, [place])))


def both_parallel(model: nn.Module, world: int) -> None:
    """FSDP over tensor parallel: rows of rows (a strided shard) and columns of rows."""
    mesh = init_device_mesh("cpu", (2, world // 2) if world > 1 else (1, 1), mesh_dim_names=("data", "tensor"))
    for name, param in list(model.named_parameters()):
        place = Shard(1 if name in ("small", "kernel") else 0)
        setattr(model, name, nn.Parameter(distribute_tensor(param.detach(), mesh["tensor"], [place])))
    fully_shard(model, mesh=mesh["data"])


def resumed(folder: Path, world: int) -> dict[str, Tensor]:
    """A checkpoint of one process in the middle of the training, noise on, which every world size resumes."""
    model = Bag(torch.bfloat16)
    fully_shard(model)
    optimizer = optimizer_of(model, "adam")
    checkpoint = folder / "checkpoint"
    if world == 1:
        train(model, optimizer, range(2))
        saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer)))
        dcp.save(saved, checkpoint_id=checkpoint)
        return train(model, optimizer, range(2, STEPS))
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    found = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer)))
    dcp.load(found, checkpoint_id=checkpoint)
    set_state_dict(model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
    return train(model, optimizer, range(2, STEPS))


def data_parallel(rank: int, world: int, split: bool = False, accumulate: int = 1, **options) -> dict[str, Tensor]:
    """A training under DistributedDataParallel. split: every rank has its part of the batch, and sums of gradients
    round otherwise; else all have the same batch, and the mean is exact."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    parallel = DistributedDataParallel(model)
    optimizer = NVRMAdamW(model.parameters(), lr=0.01, variability=0.05, seed=0, **options)
    generator = torch.Generator().manual_seed(3)
    part = slice(rank * (8 // world), (rank + 1) * (8 // world)) if split else slice(None)
    for _ in range(4):
        optimizer.zero_grad()
        for turn in range(accumulate):
            x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
            y = torch.randint(0, 3, (8,), generator=generator)
            with parallel.no_sync() if turn + 1 < accumulate else contextlib.nullcontext():
                nn.functional.cross_entropy(parallel(x[part]), y[part]).backward()
        optimizer.step()
    return all_of(model, optimizer)


def written(place: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """Every weight is set to 2 while no noise is on; after one more step and denoise(): what is there."""

    def fill(model: nn.Module) -> None:
        with torch.no_grad():
            for param in model.parameters():
                param.fill_(2.0)

    def load(model: nn.Module) -> None:
        model.load_state_dict({name: torch.full_like(x, 2.0) for name, x in model.state_dict().items()})

    def load_whole(model: nn.Module) -> None:
        full = {name: torch.full(shape, 2.0) for name, shape in SHAPES.items()}
        set_model_state_dict(model, full, options=StateDictOptions(full_state_dict=True))

    left = {}
    for write in (fill, load, load_whole):
        for masters in (False, True):
            for mode in ("denoised", "eval", "denoise"):
                model = Bag(torch.float32)
                place(model)
                optimizer = NVRMSGD(model.named_parameters(), lr=0.1, variability=0.1, master_weights=masters)
                for _ in range(2):
                    for param in model.parameters():
                        param.grad = torch.zeros_like(param)
                    optimizer.step()
                    if mode == "denoised":
                        with optimizer.denoised():
                            write(model)
                    elif mode == "eval":
                        optimizer.eval()
                        write(model)
                        optimizer.train()
                    else:
                        optimizer.denoise()
                        write(model)
                optimizer.step()
                optimizer.denoise()
                for name, param in model.named_parameters():
                    left[f"{write.__name__} {masters} {mode} {name}"] = whole(param)
    return left


def scenarios(rank: int, world: int, folder: Path) -> dict[str, dict[str, Tensor]]:
    left = {}
    for kind, dtype in (
        ("sgd", torch.float32), ("adam", torch.bfloat16), ("wrapped", torch.bfloat16), ("by rows", torch.float32),
        ("by tensors", torch.bfloat16), ("wrapped by rows", torch.float32),
    ):  # fmt: skip
        places: dict[str, Callable[[nn.Module], object]] = {
            "fully_shard": fully_shard,
            "fully_shard over the second dimension": lambda m: fully_shard(m, shard_placement_fn=over_second_dimension),
            "hybrid": lambda m: fully_sharded_2d(m, world),
            "tensor parallel rows": lambda m: tensor_parallel(m, world, 0),
            "tensor parallel columns": lambda m: tensor_parallel(m, world, 1),
            "both": lambda m: both_parallel(m, world),
        }
        for name, place in places.items():
            left[f"{name}, {kind}"] = sharded(kind, dtype, place)
    left["written, fully_shard"] = written(fully_shard)
    left["written, tensor parallel"] = written(lambda m: tensor_parallel(m, world, 0))
    left["resumed"] = resumed(folder, world)
    left["data parallel"] = data_parallel(rank, world)
    left["data parallel, accumulated"] = data_parallel(rank, world, accumulate=2)
    left["data parallel, split"] = data_parallel(rank, world, split=True)
    left["data parallel, own noise"] = data_parallel(rank, world, decorrelate_ranks=True)
    return left


def be_rank(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous_{world}", rank=rank, world_size=world)
    torch.save(scenarios(rank, world, folder), folder / f"left_{world}_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    folder, worlds = Path(sys.argv[1]), map(int, sys.argv[2:])
    for world in worlds:
        start_processes(be_rank, (world, folder), nprocs=world, start_method="fork")


if __name__ == "__main__":
    main()
