"""Overrides as they are typed, in Hydra's grammar: an option that is a text takes any, such as a file's odd name."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing
from collections.abc import Iterator, Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from fedkr.config import Study

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
# Read by Hydra as they stand: no number, no null, no truth value.
PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_][a-z0-9_./-]*", re.ASCII | re.IGNORECASE)


def with_texts(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Return overrides in which Hydra reads the value of every text option as that text, and no number, list or null.

    A value in quotes stays as it is, and so does ``${name}`` within one. In a ``sweep``, commas outside of quotes and
    Hydra's functions (``choice(a,b)``) go on to separate values.
    """
    return [_with_text(override, sweep) for override in overrides]


def option_of(override: str) -> str:
    """Return the name of the option that an override sets."""
    return override.partition("=")[0].lstrip("+")


def as_value(text: str) -> str:
    """Return what Hydra reads as this text, wherever a value stands."""
    return text if PLAIN.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()


def as_typed(name: str, text: str) -> str:
    """Return how the text of an option is typed behind its name."""
    plain = name in _text_options() and text and "${" not in text and not QUOTED.fullmatch(text)
    return text if plain else as_value(text.replace("${", r"\${"))


def _with_text(override: str, sweep: bool) -> str:
    name, equals, value = override.partition("=")
    if not equals or name.lstrip("+") not in _text_options():
        return override
    if sweep and "," in value and (values := _swept(override, value)):
        return f"{name}={','.join(values)}"
    return f"{name}={_quoted(value)}"


def _quoted(value: str) -> str:
    return value if QUOTED.fullmatch(value) else as_value(value)


def _swept(override: str, value: str) -> list[str]:
    """Return the values of a sweep; none where this is one value, with a comma in quotes."""
    if re.match(r"\w+\(", value):
        with contextlib.suppress(HydraException):
            return [value] if OverridesParser.create().parse_override(override).is_sweep_override() else []
    # A part is text in quotes, or anything but a comma.
    parts = re.findall(rf"(?:^|,)((?:{QUOTED.pattern}|\$\{{[^{{}}]*\}}|[^,])*)", value)
    return [_quoted(part.strip()) for part in parts] if len(parts) > 1 else []


@cache
def _text_options() -> frozenset[str]:
    return frozenset(_texts_of(Study))


def _texts_of(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the options that are texts."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _texts_of(hints[field.name], f"{prefix}{field.name}.")
        elif hints[field.name] is str:
            yield f"{prefix}{field.name}"
