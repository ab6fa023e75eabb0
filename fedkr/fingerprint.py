"""Names for values: whole digests, so that nobody can make two values that one name stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line starts without NumPy
    from numpy.typing import NDArray


def fingerprint(value: Any) -> str:
    """Return 64 hex digits that name a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def array_digest(arrays: Iterable[NDArray[Any]]) -> str:
    """Return 64 hex digits that name arrays: their values, shapes and dtypes, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode() + array.tobytes())
    return digest.hexdigest()
