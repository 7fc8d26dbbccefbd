"""Seeds of the studies."""

import itertools

import torch

from studies.seeds import derive

PURPOSES = (
    "label-noise", "weights", "batches", "labels", "noise", "torch", "search", "validation", "perturbed copies",
    "permutations", "held-out images", "layer noise", "deviations", "attacks", "pruning", "training images",
    "gradient noise", "measured batches", "noise of task 0", "noise of task 1",
)  # fmt: skip


def test_seeds_stay_what_they_are():
    # BLAKE2b-64 of "0 weights" (by coreutils' b2sum), without its last bit.
    assert derive(0, "weights") == 0x4E9EFAB183BBB284
    assert derive(derive(0, "label-noise"), "weights") != derive(0, "weights")


def test_every_purpose_of_every_seed_draws_numbers_of_its_own():
    seeds = [derive(seed, purpose) for seed, purpose in itertools.product(range(50), PURPOSES)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    drawn = {tuple(torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()) for seed in seeds}
    assert len(drawn) == len(seeds)
