"""The site's secret, in its records: what is keyed by it tells others nothing, and outlives every workspace."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from fedkr.disk import create, sync_folder, temporary_name
from fedkr.errors import UserError

SECRET_FILE, LEDGER_FILE = "secret", "ledger.jsonl"
LENGTH = 32


def _make_folder(folder: Path) -> None:
    """Make the folder for this account alone; raise :class:`UserError` when the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; make it writable, or name another in records") from None


def keyed(folder: Path, content: bytes) -> bytes:
    """Return 32 bytes that only this site can compute from ``content`` (HMAC-SHA256 by its secret)."""
    return hmac.new(secret_of(folder), content, "sha256").digest()


def secret_of(folder: Path) -> bytes:
    """Return the site's secret, 32 random bytes drawn once, with the records' ledger.

    Raises:
        UserError: the disk refuses, or records that are not whole: another secret would show what this one hides.
    """
    path = folder / SECRET_FILE
    _make_folder(folder)
    try:
        if not path.exists():
            _draw_secret(folder)
        content = path.read_bytes()
    except OSError as error:
        where = error.filename or path
        raise UserError(f"{where}: {error.strerror}; make the folder writable for this process") from None
    if len(content) != LENGTH:
        raise UserError(f"{path}: has {len(content)} bytes instead of {LENGTH}; restore it from a backup")
    return content


def _draw_secret(folder: Path) -> None:
    path, ledger = folder / SECRET_FILE, folder / LEDGER_FILE
    # The ledger first: records with a secret and no ledger have lost it.
    with os.fdopen(os.open(ledger, os.O_RDONLY | os.O_CREAT, 0o600), "rb") as handle:
        # Another process may have drawn the secret, and answered, in between.
        if handle.read(1) and not path.exists():
            raise UserError(f"{path}: is gone, and {ledger} tells of answers; restore it from a backup")
    draft = temporary_name(path)
    with create(draft, 0o600) as handle:
        handle.write(secrets.token_bytes(LENGTH))
        handle.flush()
        os.fsync(handle.fileno())
    # Of two processes that start at once the first one's stays.
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    sync_folder(folder)
