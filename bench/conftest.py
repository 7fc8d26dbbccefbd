"""What the pytest benchmarks share: the option --threads and the gate before the first figure."""

from __future__ import annotations

import pytest
import torch

from .gate import RedGate, check_all
from .machine import DEFAULT_THREADS, instruction_set_restored


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=DEFAULT_THREADS, help="threads that torch uses (default: 2)")


@pytest.fixture(scope="session", autouse=True)
def green_gate(request: pytest.FixtureRequest):
    """Ends the session unless what is about to be timed is right; restores threads and instruction set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    try:
        check_all()
    except RedGate as error:
        pytest.exit(f"no figures on a red gate: {error}", returncode=1)
    with instruction_set_restored():
        yield
    torch.set_num_threads(threads)
