"""Files that are whole or not there: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from fedkr.errors import UserError


def write_atomic(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write bytes as :func:`write_atomic_stream` does."""
    write_atomic_stream(path, lambda handle: handle.write(content), mode)


def write_atomic_stream(path: Path, write: Callable[[IO[bytes]], Any], mode: int = 0o666) -> None:
    """Have ``write`` fill a file under a temporary name, flush it to the disk, then rename it.

    The umask takes from ``mode``. Raises :class:`UserError` on failure, which leaves nothing behind.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with create(temporary, mode) as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from None


def sync_folder(folder: Path) -> None:
    """Have the disk hold which files a folder has: a power cut could else undo a rename whose content is kept."""
    entries = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` that nobody can guess, and put a file or link of their own there beforehand."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def create(path: Path, mode: int = 0o666) -> IO[bytes]:
    """Open a file that must not be there yet, as the process's umask has it; a link is there, wherever it leads."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")


def from_home(path: Path) -> Path:
    """Return a path whose ``~`` is the user's home; a name that begins with ``~`` and no user's name is a file's."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people to read; raise :class:`UserError` when the disk refuses."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")


def path_within(folder: Path, name: str) -> Path:
    """Return the path of a file that a run's results name; raise :class:`UserError` where it lies elsewhere.

    A run folder may come from someone else.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder}: its results name {name[:100]!a}, which is not in this folder")
    return path
