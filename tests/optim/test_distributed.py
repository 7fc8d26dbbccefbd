"""Every world size and every placement leaves the same bits as one process (gloo, on the CPU)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import SHAPES

from nvrm_fast.contract.measures import ON

WORLDS = (1, 2, 4)
WORKER = Path(__file__).parents[1] / "helpers" / "distributed_worker.py"

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What every rank of every world left: left[world][rank][scenario][name]."""
    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, str(WORKER), str(folder), *map(str, WORLDS)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return {world: [torch.load(folder / f"left_{world}_{rank}.pt") for rank in range(world)] for world in WORLDS}


def assert_same(a, b, what):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), (what, name)


@pytest.mark.parametrize("kind", ["sgd", "adam", "wrapped", "by rows", "by tensors", "wrapped by rows"])
@pytest.mark.parametrize(
    "placement",
    [
        "fully_shard", "fully_shard over the second dimension", "hybrid", "tensor parallel rows",
        "tensor parallel columns", "both",
    ],
)  # fmt: skip
def test_shards_are_parts_of_the_whole(left, placement, kind):
    expected = left[1][0][f"fully_shard, {kind}"]
    assert len(expected) >= 3 * len(SHAPES) and not torch.equal(expected["noisy matrix"], expected["end matrix"])
    for world in WORLDS:
        for rank, scenarios in enumerate(left[world]):
            assert_same(scenarios[f"{placement}, {kind}"], expected, (world, rank))


def test_one_process_without_any_mesh_agrees(left):
    from distributed_worker import Bag, optimizer_of, train

    for kind, dtype in (("sgd", torch.float32), ("adam", torch.bfloat16), ("wrapped", torch.bfloat16)):
        model = Bag(dtype)
        assert_same(train(model, optimizer_of(model, kind)), left[1][0][f"fully_shard, {kind}"], kind)
    for kind, dtype in (("by rows", torch.float32), ("by tensors", torch.bfloat16), ("wrapped by rows", torch.float32)):
        model = Bag(dtype)
        alone, shard = train(model, optimizer_of(model, kind)), dict(left[1][0][f"fully_shard, {kind}"])
        for name in [name for name in alone if name.startswith("weight_measure")]:
            # Of shards the measures of the clean weights are worked out before a step, elsewhere at its end.
            assert torch.equal(alone.pop(name)[ON], shard.pop(name)[ON])
        assert_same(alone, shard, kind)


def test_a_checkpoint_resumes_at_every_world_size(left):
    uninterrupted = left[1][0]["fully_shard, adam"]
    for world in WORLDS:
        for rank, scenarios in enumerate(left[world]):
            assert_same(scenarios["resumed"], uninterrupted, (world, rank))


@pytest.mark.parametrize("scenario", ["data parallel", "data parallel, accumulated"])
def test_data_parallel_is_one_process(left, scenario):
    """All ranks see the same batch, so that the mean of the gradients is exact."""
    for world in WORLDS:
        for rank, scenarios in enumerate(left[world]):
            assert_same(scenarios[scenario], left[1][0][scenario], (world, rank))


def test_data_parallel_over_parts_of_the_batch(left):
    """Ranks agree bit for bit; world sizes up to the order of the gradients' sums, in float64."""
    for world in WORLDS:
        for scenarios in left[world]:
            assert_same(scenarios["data parallel, split"], left[world][0]["data parallel, split"], world)
            for name, value in scenarios["data parallel, split"].items():
                torch.testing.assert_close(value, left[1][0]["data parallel, split"][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("placement", ["fully_shard", "tensor parallel"])
def test_whoever_writes_shards_wins(left, placement):
    """By every way, in both storages and in every mode."""
    for world in WORLDS:
        for scenarios in left[world]:
            for what, value in scenarios[f"written, {placement}"].items():
                # The roundings of noise put on and taken off twice, half a spacing (1.2e-7) of weights below 4 each.
                torch.testing.assert_close(value, torch.full_like(value, 2.0), rtol=0, atol=1e-6, msg=what)


def test_ranks_with_noise_of_their_own(left):
    """Noise, and the record that says which, differ from rank to rank, clean weights do not; alone it is the common
    noise in master mode."""
    key = "data parallel, own noise"
    for world in (2, 4):
        first = left[world][0][key]
        for scenarios in left[world][1:]:
            for name, value in scenarios[key].items():
                same = torch.equal(value, first[name])
                assert same != name.startswith(("noisy", "perturbation")), (world, name)
    for name, value in left[1][0][key].items():
        if name.startswith("end"):
            torch.testing.assert_close(value, left[1][0]["data parallel"][name], rtol=1e-9, atol=1e-9)
