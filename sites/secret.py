"""The site's secret, in its records: what is keyed by it tells others nothing, and outlives every workspace."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from fedkr.errors import UserError

SECRET_FILE = "secret"


def make_records(folder: Path) -> None:
    """Make the folder for this account alone; raise :class:`UserError` when the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; make it writable, or name another in records") from None


def keyed(folder: Path, content: bytes) -> bytes:
    """Return 32 bytes that only this site can compute from ``content`` (HMAC-SHA256 by its secret)."""
    return hmac.new(secret_of(folder), content, "sha256").digest()


def secret_of(folder: Path) -> bytes:
    """Return the site's secret, 32 random bytes drawn once; raise :class:`UserError` when the disk refuses."""
    path = folder / SECRET_FILE
    make_records(folder)
    try:
        if not path.exists():
            _draw_secret(path)
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make the folder writable for this process") from None


def _draw_secret(path: Path) -> None:
    draft = path.with_name(f".{SECRET_FILE}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(secrets.token_bytes(32))
    # Of two processes that start at once the first one's stays.
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
