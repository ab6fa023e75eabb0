"""What an option's value must be beyond its type: conditions in the annotations of dataclasses, and their check."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fedkr.config.reading import brief, nearest
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


def at_most(most: float) -> Must:
    """Return the condition on a number that it is no larger than ``most``."""
    return Must(lambda n: n <= most, f"must be at most {most}")


def no_longer_than(most: int) -> Must:
    """Return the condition on a list that it has no more than ``most`` items."""
    return Must(lambda items: len(items) <= most, f"at most {most} items")


def multiple_of(divisor: int) -> Must:
    """Return the condition on a number that it is a multiple of ``divisor`` above 0."""
    return Must(lambda n: n > 0 and n % divisor == 0, f"must be a multiple of {divisor}")


# A study comes from another machine: what it may ask for ends somewhere. No comparison holds of NaN, so none of these
# is; options that cost more have lower limits of their own.
MOST = 10_000_000
# float32 holds no much larger number.
LARGEST = 1e38
Count = Annotated[int, Must(lambda n: n >= 1, "must be at least 1"), at_most(MOST)]
Natural = Annotated[int, Must(lambda n: n >= 0, "must not be negative"), at_most(MOST)]
Positive = Annotated[float, Must(lambda x: x > 0, "must be above 0"), at_most(LARGEST)]
NonNegative = Annotated[float, Must(lambda x: x >= 0, "must not be negative"), at_most(LARGEST)]


def check_values(options: Any, where: str = "") -> None:
    """Raise :class:`UserError` for the first value in a (nested) dataclass that breaks a condition on its field.

    The error begins with ``where``, the dotted path of ``options``.
    """
    for name, hint in typing.get_type_hints(type(options), include_extras=True).items():
        _check(hint, getattr(options, name), f"{where}.{name}".removeprefix("."))


def _check(hint: Any, value: Any, where: str) -> None:
    if dataclasses.is_dataclass(value):
        check_values(value, where)
    for condition in getattr(hint, "__metadata__", ()):
        if isinstance(condition, OneOf):
            one_of(where, value, condition.known, condition.what)
        elif isinstance(condition, Must) and not condition.hold(value):
            raise UserError(f"{where}={brief(value)}: {condition.otherwise}")
    plain = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    if typing.get_origin(plain) is list:
        for item in value:
            _check(typing.get_args(plain)[0], item, where)


def one_of(name: str, value: str, known: tuple[str, ...], what: str = "value") -> None:
    """Raise :class:`UserError` naming an option whose value is not among the known ones."""
    if value not in known:
        raise UserError(f"{name}={brief(repr(value))}: unknown {what}{nearest(value, known)}")
