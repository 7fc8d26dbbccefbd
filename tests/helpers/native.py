"""Every native instruction set of this processor, for tests that compare each with the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nvrm_fast.ops.registry import _native


def each_instruction_set() -> Iterator[str]:
    """Switches to one after the other; afterwards the first choice is back. Skips the test if nothing was built."""
    if _native is None:
        pytest.skip("native kernels not built")
    before = _native.instruction_set()
    try:
        for name in _native.available_instruction_sets():
            _native.use_instruction_set(name)
            yield name
    finally:
        _native.use_instruction_set(before)
