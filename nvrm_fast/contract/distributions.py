"""The distributions that noise is drawn from: their names and codes."""

from __future__ import annotations

#: Of the noise contract: raised when the same five integers give other values, so that noise which a checkpoint carries
#: is not taken off as what it is not. Contract 1, until version 2 of checkpoints, had ten rounds of Philox and other
#: polynomials.
NOISE_CONTRACT = 2

#: name -> code in operator arguments, records and checkpoints. The specification fills it, where each name stands with
#: its function (nvrm_fast/reference/distribution.py); the package's import brings both.
DISTRIBUTIONS: dict[str, int] = {}


def register_distribution(name: str, code: int) -> None:
    """Gives a distribution its name and its code, the next free one. Raises ValueError for one that is taken."""
    if name in DISTRIBUTIONS or code != len(DISTRIBUTIONS):
        raise ValueError(f"{name}, {code}: the next distribution has the code {len(DISTRIBUTIONS)} and a new name")
    DISTRIBUTIONS[name] = code


def distribution_code(name: str, argument: str = "distribution") -> int:
    """The operators' code of a distribution. Raises ValueError, which names the argument, for another name."""
    if not isinstance(name, str) or name not in DISTRIBUTIONS:
        raise ValueError(f"{argument} must be one of {', '.join(DISTRIBUTIONS)}; got {name!r}")
    return DISTRIBUTIONS[name]
