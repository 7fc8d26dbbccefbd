"""Fixtures: every implementation that this machine can run, and poisoned fresh memory."""

from __future__ import annotations

import sys

import pytest
import torch

from nvrm_fast.ops.registry import _native


def pytest_report_header() -> str:
    sets = ", ".join(_native.available_instruction_sets()) if _native is not None else "none (not built)"
    return f"nvrm_fast: native instruction sets: {sets}; torch {torch.__version__}"


@pytest.fixture
def threads():
    """Sets the number of torch's threads; restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh memory that nvrm_fast asks for holds NaN (or nonsense integers), so that what is never written shows."""

    def poison(function):
        def poisoned(*args, **kwargs):
            tensor = function(*args, **kwargs)
            if sys._getframe(1).f_globals.get("__name__", "").startswith("nvrm_fast"):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 0x5A)
            return tensor

        return poisoned

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))


@pytest.fixture(autouse=True)
def same_random_numbers():
    """No test depends on chance or on those before it, not even where it draws without a seed of its own."""
    torch.manual_seed(0)
