"""Plain values into dataclasses, with errors that name the field and the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

from fedkr.errors import UserError

T = TypeVar("T")
# What an error repeats of a value that it refuses.
LONGEST_QUOTE = 120
# Beyond it, float64 does not hold every whole number.
LARGEST_INT = 2**53


def read_dataclass(kind: type[T], values: Any, where: str) -> T:
    """Build a (nested) dataclass from plain values.

    Raises:
        UserError: an unknown field (with the nearest known one) or a value of another type, named by its dotted path.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a group of fields, got {brief(repr(values))}")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise UserError(f"{where}.{brief(name)}: no such option{nearest(name, known)}")
    return kind(**{name: _read_value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def brief(value: Any) -> str:
    """Return a value's text as an error may repeat it: not long, and of one line."""
    text = str(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Return '; did you mean ...' or the list of known names, to end an error line with."""
    known = sorted(map(str, known))
    if not known:
        return "; there are none"
    close = difflib.get_close_matches(str(name)[:LONGEST_QUOTE], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; one of: {', '.join(known)}"


def _read_value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_dataclass(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}={brief(repr(value))}: expected a list, as in [a,b]")
        (item,) = typing.get_args(hint)
        return [_read_value(item, v, f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}={brief(repr(value))}: expected a group of fields")
        key, item = typing.get_args(hint)
        return {_read_value(key, k, where): _read_value(item, v, f"{where}.{brief(k)}") for k, v in value.items()}
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value, where)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(
            f"{where}={brief(repr(value))}: expected {hint.__name__}, got {type(value).__name__}{_remedy(hint)}"
        )
    return value


def _remedy(hint: Any) -> str:
    # YAML reads 123, null and on as other than texts.
    return "; a text that looks like something else needs quotes" if hint is str else ""


def _as_float(value: int, where: str) -> float:
    if abs(value) > LARGEST_INT:
        raise UserError(f"{where}: a whole number of {value.bit_length()} bits is too large")
    return float(value)
