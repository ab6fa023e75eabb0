"""Time and disk of one message's work, which the site file limits whatever the study asks for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from fedkr.errors import UserError

POLL_SECONDS = 5.0
T = TypeVar("T")


class LimitError(UserError):
    """Work that took longer, or filled more of the disk, than the site file allows."""


class _Stop(BaseException):
    """What ends the work from outside; nothing that handles mistakes of the work itself catches it."""


def within_limits(work: Callable[[], T], folders: Sequence[Path], hours: float, gigabytes: float) -> T:
    """Return what ``work`` does; end it once it takes longer, or ``folders`` together hold more, than is allowed.

    The work ends between two steps of Python: a call into other code, such as one matrix product, comes to its end.

    Raises:
        LimitError: a limit was passed, before the work or during it.
    """
    watch = _Watch(folders, hours, gigabytes)
    watch.check_disk()
    watcher = threading.Thread(target=watch.run, args=(threading.get_ident(),), daemon=True)
    # All in one function: between a context manager and its block the exception could come where nothing catches it.
    try:
        watcher.start()
        try:
            result = work()
        finally:
            watch.over.set()
            watcher.join()
        time.sleep(0)  # an exception that is still on its way comes here
    except _Stop:
        raise LimitError(watch.reason) from None
    return result


class _Watch:
    """Looks at the clock and the folders until the work is over, and stops it once."""

    def __init__(self, folders: Sequence[Path], hours: float, gigabytes: float) -> None:
        self.folders, self.hours, self.gigabytes = folders, hours, gigabytes
        self.until = time.monotonic() + hours * 3600
        self.over, self.reason = threading.Event(), ""

    def check_disk(self) -> None:
        """Raise :class:`LimitError` when the folders hold too much."""
        if bytes_of(self.folders) > self.gigabytes * 1e9:
            raise LimitError(
                f"{', '.join(map(str, self.folders))}: holds more than studies.gigabytes={self.gigabytes:g}; delete "
                "stages of earlier studies or rehearsals from the workspace, or raise the limit in the site file"
            )

    def run(self, thread: int) -> None:
        """Raise :class:`_Stop` in a thread when a limit is passed before the work is over."""
        while not self.over.wait(max(0.0, min(POLL_SECONDS, self.until - time.monotonic()))):
            try:
                self.check_disk()
            except LimitError as error:
                self.reason = str(error)
            if time.monotonic() >= self.until:
                self.reason = f"the work took longer than studies.hours={self.hours:g} of the site file"
            if self.reason:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stop))
                return


def bytes_of(folders: Sequence[Path]) -> int:
    """Return the bytes of all files in some folders; one that lies in another counts once."""
    whole = {folder.resolve() for folder in folders}
    return sum(folder_bytes(folder) for folder in whole if not whole & {*folder.parents})


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder and its folders; those that vanish meanwhile count nothing."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                inner = entry.is_dir(follow_symlinks=False)
                total += folder_bytes(Path(entry.path)) if inner else entry.stat(follow_symlinks=False).st_size
    return total
