"""Why a run failed: the one line that a backend raises, and the note that the ServerApp leaves for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


class RunFailed(Exception):  # noqa: N818 - it names what happened, as `UserError` names whose it is
    """The run ended without completing.

    Args:
        reason: one line for the user.
        restart: whether the same run, started again, can be expected to get further.
    """

    def __init__(self, reason: str, restart: bool = False) -> None:
        super().__init__(" ".join(reason.split()))
        self.restart = restart


def note_path(run_dir: Path) -> Path:
    """Return the file that the ServerApp writes before it raises: ``{"reason": one line, "restart": bool}``."""
    return run_dir / "server" / "failure.json"


def clear_note(run_dir: Path) -> None:
    """Remove what an earlier run left, so that it cannot be taken for this run's reason."""
    note_path(run_dir).unlink(missing_ok=True)


def read_note(run_dir: Path) -> RunFailed | None:
    """Return the ServerApp's own account of the failure, or None where it left none that can be read."""
    try:
        note = json.loads(note_path(run_dir).read_text(encoding="utf-8"))
        return RunFailed(str(note["reason"]), bool(note.get("restart", False)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def with_restarts(attempt: Callable[[], None], restarts: int) -> None:
    """Call ``attempt`` until it completes, again only after failures that a restart can cure.

    Finished stages are files, so a restart repeats none of them.

    Raises:
        RunFailed: the last failure, when it is not to be restarted or ``restarts`` are used up.
    """
    for left in range(restarts, -1, -1):
        try:
            attempt()
            return
        except RunFailed as failure:
            if not failure.restart or left == 0:
                raise
            logger.warning("%s; starting the run again (restarts left after this one: %d)", failure, left - 1)
