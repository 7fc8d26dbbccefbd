"""Settings of studies: dataclasses whose fields are checked by pydantic and become a command line by tyro.

Both libraries replace hand-written tables of options. tyro (1.0, MIT licence, three small dependencies, the command
line of nerfstudio) reads types and the docstring under each field, takes the values of a preset as defaults, and has
lists as ``--rates 0.1 0.2``; jsonargparse, as mature, wants ``--rates "[0.1, 0.2]"``. pydantic's constraints are part
of a field's type, and its messages say what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from studies import StudyError

# Types of fields; any number of values is tuple[Positive, ...], and one or more Annotated[tuple[Positive, ...], SOME].
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("give one or more")
    return values


SOME = AfterValidator(_some)
DataName = Literal["mnist-5000", "fashion-mnist", "mnist", "cifar10", "cifar100"]


@cache
def _checkers(kind: type) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}


def flag(name: str) -> str:
    """``--data-dir`` for the field ``data_dir``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Fields that are checked. The docstring under a field is its help; its type says what is allowed.

    Raises:
        StudyError: for a value that its type does not allow. The message names the option.
    """

    def __post_init__(self) -> None:
        checkers = _checkers(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, checkers[field.name].validate_python(value))
            except ValidationError as error:
                reasons = "; ".join(dict.fromkeys(one["msg"] for one in error.errors()))
                raise StudyError(f"{flag(field.name)} is {value!r}: {reasons}") from None
