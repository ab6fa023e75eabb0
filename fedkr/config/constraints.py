"""What an option's value must be beyond its type: conditions in the annotations of dataclasses, and their check."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fedkr.config.reading import nearest
from fedkr.errors import UserError


@dataclass(frozen=True)
class Must:
    """A condition on a number, as in ``Annotated[float, Must(lambda x: x > 0, "must be above 0")]``.

    A lambda in an annotation sees none of its module's names.
    """

    hold: Callable[[Any], bool]
    otherwise: str


class OneOf:
    """The condition on a text that it is among the ``known`` ones; an error calls each a ``what``."""

    def __init__(self, *known: str, what: str = "value") -> None:
        self.known, self.what = known, what


# No comparison holds of NaN, so none of these is.
Count = Annotated[int, Must(lambda n: n >= 1, "must be at least 1")]
Natural = Annotated[int, Must(lambda n: n >= 0, "must not be negative")]
Positive = Annotated[float, Must(lambda x: x > 0, "must be above 0")]
NonNegative = Annotated[float, Must(lambda x: x >= 0, "must not be negative")]


def multiple_of(divisor: int) -> Must:
    """Return the condition on a number that it is a multiple of ``divisor`` above 0."""
    return Must(lambda n: n > 0 and n % divisor == 0, f"must be a multiple of {divisor}")


def check_values(options: Any, where: str = "") -> None:
    """Raise :class:`UserError` for the first value in a (nested) dataclass that breaks a condition on its field.

    The error begins with ``where``, the dotted path of ``options``.
    """
    for name, hint in typing.get_type_hints(type(options), include_extras=True).items():
        _check(hint, getattr(options, name), f"{where}.{name}".removeprefix("."))


def _check(hint: Any, value: Any, where: str) -> None:
    if dataclasses.is_dataclass(value):
        check_values(value, where)
    elif typing.get_origin(hint) is list:
        for item in value:
            _check(typing.get_args(hint)[0], item, where)
    for condition in getattr(hint, "__metadata__", ()):
        if isinstance(condition, OneOf):
            one_of(where, value, condition.known, condition.what)
        elif isinstance(condition, Must) and not condition.hold(value):
            raise UserError(f"{where}={value}: {condition.otherwise}")


def one_of(name: str, value: str, known: tuple[str, ...], what: str = "value") -> None:
    """Raise :class:`UserError` naming an option whose value is not among the known ones."""
    if value not in known:
        raise UserError(f"{name}={value!r}: unknown {what}{nearest(value, known)}")
