"""Exits: the one place where whatever stops a command becomes one line on stderr and an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fedkr.errors import StudyFailedError, UserError

FAILED, MISTAKEN = 1, 2
# The name of threads that compute beside the main one.
BESIDE = "beside"


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end, as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def guarded(work: Callable[[], int | None]) -> int:
    """Run ``work`` and return its exit status (None is 0), or the status of what stopped it."""
    try:
        with interruptible():
            return work() or 0
    except BrokenPipeError:
        # The reader of our output (`| head`) had enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return tell_failure(error)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGTERM and SIGHUP (a closed terminal; not under ``nohup``) raise :class:`Interrupted` in the block.

    Only the main thread may set handlers; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def leave(number: int, frame: FrameType | None) -> None:
        # A closing terminal sends more than one signal, and none may disturb the clean-up after the first.
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell_failure(error: BaseException, folder: Path | None = None) -> int:
    """Print one line on stderr and return the exit status.

    The traceback of an unexpected error is kept in ``folder``, or in the system's temporary folder if that is None.

    Returns:
        2 for a mistake of the user or a file that cannot be used, 1 for a run that failed or an unexpected error,
        128 + N after signal N (Ctrl-C: 2).
    """
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted; the same command continues where this one stopped")
        return 128 + getattr(error, "number", signal.SIGINT)
    if isinstance(error, UserError):
        _say(f"error: {error}")
        return MISTAKEN
    if isinstance(error, StudyFailedError):
        _say(f"error: {error}")
        return FAILED
    if folder is None and isinstance(error, OSError) and error.filename is not None:
        _say(f"error: {error.filename}: {error.strerror}")
        return MISTAKEN
    _say(f"error: {type(error).__name__}: {error}; {_keep_traceback(error, folder)}")
    return FAILED


def leave(status: int | None) -> NoReturn:
    """End this process with an exit status, at once where a thread still computes.

    Python's own end would take the thread away from under torch, which aborts the process with another status.
    """
    if any(thread.name == BESIDE for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                stream.flush()
        os._exit(status or 0)
    sys.exit(status)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print("fedkr:", " ".join(text.split()), file=sys.stderr, flush=True)


def _keep_traceback(error: BaseException, folder: Path | None) -> str:
    path = (folder or Path(tempfile.gettempdir())) / f"fedkr-traceback-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as refusal:
        return f"the traceback could not be written to {path} ({refusal.strerror})"
    return f"traceback in {path}"
