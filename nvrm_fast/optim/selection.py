"""Which parameters noise is for: by name, by module, by a function of the two."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

#: A pattern of names, as in file names: "*.bias", "encoder.*"; a module, which stands for its parameters; or a function
#: of name and parameter. Or several of them, of which one has to fit.
Choice = str | nn.Module | Callable[[str, Tensor], bool]
Choices = Choice | Iterable[Choice] | None


def as_choices(value: Choices, argument: str) -> tuple[Choice, ...] | None:
    """`value` as a tuple. TypeError for what is no choice, ValueError for an empty list."""
    if value is None:
        return None
    # A module may be iterable (nn.Sequential), a string is.
    one = isinstance(value, (str, nn.Module)) or not isinstance(value, Iterable)
    choices: tuple[Choice, ...] = (value,) if one else tuple(value)  # type: ignore[arg-type, assignment]
    if not choices:
        raise ValueError(f"{argument} is empty: leave it out, or name something")
    for choice in choices:
        if not isinstance(choice, (str, nn.Module)) and not callable(choice):
            raise TypeError(
                f"{argument} takes patterns of names, modules and functions of name and parameter, got {choice!r}"
            )
    return choices


def needs_names(choices: Sequence[Choice] | None) -> bool:
    return choices is not None and any(not isinstance(choice, nn.Module) for choice in choices)


def _fits(choice: Choice, name: str, param: Tensor) -> bool:
    if isinstance(choice, nn.Module):
        return any(param is other for other in choice.parameters())
    if isinstance(choice, str):
        return fnmatch.fnmatchcase(name, choice)
    return bool(choice(name, param))


def is_selected(
    name: str, param: Tensor, include: Sequence[Choice] | None = None, exclude: Sequence[Choice] | None = None
) -> bool:
    """Whether one of `include` fits (None: everything does) and none of `exclude`."""
    return (include is None or any(_fits(choice, name, param) for choice in include)) and not (
        exclude is not None and any(_fits(choice, name, param) for choice in exclude)
    )
