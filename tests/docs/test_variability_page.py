"""The examples of docs/neural_variability.md run as they stand, one after another, and say what the text says."""

import torch
from pages import blocks, page, run

PAGE = "docs/neural_variability.md"


def test_the_examples():
    assert len(blocks(page(PAGE))) == 3
    before = torch.get_rng_state()
    known = run(PAGE)
    found, curve = known["found"], known["curve"]
    assert found.clean_loss < 0.1 and found.interval[0] > 0  # trained, and noise costs something
    assert curve.clean > 0.95 and curve.mean[0] > curve.mean[-1]
    assert not known["bound"].vacuous and known["bound"].bound > 1 - curve.mean[0]
    assert not known["information"].vacuous
    assert not torch.equal(torch.get_rng_state(), before)  # training drew; what follows does not matter
