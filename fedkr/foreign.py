"""Code that options name: modules of anyone's, imported with errors of one line, and the digest of their source."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from fedkr.errors import UserError
from fedkr.fingerprint import fingerprint


def import_named(option: str, name: str, *needed: str, remedy: str = "add it") -> Any:
    """Return the module that an option names; it must have what is ``needed``, as in ``"function load"``.

    Raises:
        UserError: a module that cannot be imported, or lacks what it must have.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{option}={name!r}: {error}; install it or put it on PYTHONPATH") from None
    for part in needed:
        if not callable(getattr(module, part.split()[-1], None)):
            raise UserError(f"{option}={name!r}: the module has no {part}; {remedy}")
    return module


def module_digest(module: ModuleType) -> str:
    """Return 64 hex digits of a module's source; of a package, of all the source in it."""
    path = Path(str(inspect.getsourcefile(module)))
    files = sorted(path.parent.rglob("*.py")) if hasattr(module, "__path__") else [path]
    return fingerprint([file.read_text(encoding="utf-8") for file in files])
