"""What a hospital writes is for one account alone, whatever the umask of the process that writes it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def private_files(*folders: Path) -> Iterator[None]:
    """Give files mode 0600 and folders 0700 in here, those that others write for us too, and close ``folders``.

    The umask is the whole process's: what other threads write meanwhile is private as well.
    """
    before = os.umask(0o077)
    try:
        close(*folders)
        yield
    finally:
        os.umask(before)


def close(*folders: Path) -> None:
    """Make folders that only their owner can enter, whoever could before.

    One that cannot be had stops the work itself, where the remedy can be named.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
