"""The examples of docs/neural_variability.md run as they stand, one after another, and say what the text says."""

import re
from pathlib import Path

import torch

TEXT = (Path(__file__).parents[2] / "docs" / "neural_variability.md").read_text(encoding="utf-8")


def test_the_examples():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    known = {}
    before = torch.get_rng_state()
    for block in blocks:
        exec(block, known)
    found, curve = known["found"], known["curve"]
    assert found.clean_loss < 0.1 and found.interval[0] > 0  # trained, and noise costs something
    assert curve.clean > 0.95 and curve.mean[0] > curve.mean[-1]
    assert not known["bound"].vacuous and known["bound"].bound > 1 - curve.mean[0]
    assert not known["information"].vacuous
    assert not torch.equal(torch.get_rng_state(), before)  # training drew; what follows does not matter
