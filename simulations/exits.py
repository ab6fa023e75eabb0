"""Exits: the one place where whatever stops a command becomes one line on stderr and an exit status."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from fedkr.errors import StudyFailedError, UserError

FAILED, MISTAKEN, INTERRUPTED = 1, 2, 130


def guarded(work: Callable[[], int | None]) -> int:
    """Run ``work`` and return its exit status (None is 0), or the status of what stopped it."""
    try:
        return work() or 0
    except BrokenPipeError:
        # The reader of our output (`| head`) had enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return tell_failure(error)


def tell_failure(error: BaseException, folder: Path | None = None) -> int:
    """Print one line on stderr and return the exit status.

    Args:
        error: what stopped the command.
        folder: where the traceback of an unexpected error is kept; the system's temporary folder if None.

    Returns:
        2 for a mistake of the user, 1 for a run that failed or an unexpected error, 130 after Ctrl-C.
    """
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted; the same command continues where this one stopped")
        return INTERRUPTED
    if isinstance(error, UserError):
        _say(f"error: {error}")
        return MISTAKEN
    if isinstance(error, StudyFailedError):
        _say(f"error: {error}")
        return FAILED
    _say(f"error: {type(error).__name__}: {error}; {_keep_traceback(error, folder)}")
    return FAILED


def _say(text: str) -> None:
    print("fedkr:", " ".join(text.split()), file=sys.stderr, flush=True)


def _keep_traceback(error: BaseException, folder: Path | None) -> str:
    path = (folder or Path(tempfile.gettempdir())) / f"fedkr-traceback-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as refusal:
        return f"the traceback could not be written to {path} ({refusal.strerror})"
    return f"traceback in {path}"
