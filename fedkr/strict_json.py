"""JSON documents from another machine: exactly the fields, types and lengths that their shape names, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from fedkr.errors import UserError

# Whole numbers beyond this are not counts, and a long one could spell out an image.
LARGEST_NUMBER = 2**53

Count = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]
# Far more images than a site has, and few enough for what follows from counts to be computed at once.
MOST_IMAGES = 10**7
ImageCount = Annotated[int, Field(ge=0, le=MOST_IMAGES)]
SomeImages = Annotated[int, Field(ge=1, le=MOST_IMAGES)]
# 0 or 1.
Flag = Annotated[int, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=LARGEST_NUMBER)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Base of all objects: no other fields, no conversions (``true`` is no number), no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def object_of(name: str, required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> type[Strict]:
    """Return the type of an object with these fields, each given by its type; optional ones may be left out."""
    fields: dict[str, Any] = {field: (kind, ...) for field, kind in required.items()}
    fields |= {field: (kind, None) for field, kind in (optional or {}).items()}
    return create_model(name, __base__=Strict, **fields)


def one_of(*values: str) -> Any:
    """Return the type of a field that holds one of these texts."""
    literal: Any = Literal
    return literal[values]


def list_of(kind: Any, most: int, least: int = 0) -> Any:
    """Return the type of a list of ``least`` to ``most`` items of one kind."""
    return Annotated[list[kind], Field(min_length=least, max_length=most)]


def check_strict(expected: type[Strict], document: Any) -> None:
    """Raise :class:`UserError`, with the place and what was expected there, unless a document has a shape."""
    try:
        expected.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, reason = ".".join(map(str, first["loc"])), first["msg"][:1].lower() + first["msg"][1:]
        # Names and values are the other machine's: no line break or control character of theirs is printed.
        raise UserError(f"{where[:80]!a} is {str(first['input'])[:40]!a}: {reason}") from None
