"""A few of the random sequences of state_fuzz.py; `make fuzz` runs many."""

from state_fuzz import fuzz


def test_sequences():
    assert fuzz(150, seed=0) == []
