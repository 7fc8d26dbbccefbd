"""A few of the random sequences of state_fuzz.py; `make fuzz` runs many."""

import collections

from state_fuzz import Run, fuzz


def test_sequences():
    drawn = collections.Counter()
    assert fuzz(150, seed=0, drawn=drawn) == []
    assert set(drawn) == set(Run.OPERATIONS)
