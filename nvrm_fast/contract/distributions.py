"""The distributions that noise is drawn from: their names and codes."""

from __future__ import annotations

#: Of the noise contract: raised when the same five integers give other values, so that noise which a checkpoint carries
#: is not taken off as what it is not. Contract 1, until version 2 of checkpoints, had ten rounds of Philox and other
#: polynomials.
NOISE_CONTRACT = 2

#: name -> code in operator arguments, records and checkpoints. Never renumber. The functions are in
#: nvrm_fast/reference/distribution.py; the native list is NVRM_FOR_EACH_DISTRIBUTION in csrc/math/distribution.h.
DISTRIBUTIONS: dict[str, int] = {"gaussian": 0, "uniform": 1, "laplace": 2}


def distribution_code(name: str, argument: str = "distribution") -> int:
    """The operators' code of a distribution. Raises ValueError, which names the argument, for another name."""
    if not isinstance(name, str) or name not in DISTRIBUTIONS:
        raise ValueError(f"{argument} must be one of {', '.join(DISTRIBUTIONS)}; got {name!r}")
    return DISTRIBUTIONS[name]
