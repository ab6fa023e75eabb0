"""How a run ends badly: one line for the user, and whether starting again can help."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkr.errors import UserError
from fedkr.stages import write_atomic

logger = logging.getLogger("fedkr.server")


class StudyFailedError(Exception):
    """The study cannot go on.

    Args:
        reason: one line for the user.
        restart: whether the same run, started again, can be expected to get further (a worker died).
    """

    def __init__(self, reason: str, restart: bool = False) -> None:
        super().__init__(reason)
        self.restart = restart


@contextmanager
def failures_noted(run_dir: Path) -> Iterator[None]:
    """Whatever ends the block goes on, but first it is noted for the driver and, where it has a line, told the user."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (UserError, StudyFailedError)):
            logger.error("└── fedkr: error: %s", error)
        leave_note(run_dir, error)
        raise


def leave_note(run_dir: Path, error: Exception) -> None:
    """Write why the run failed to where the driver looks for it."""
    reason = str(error) or type(error).__name__
    note = {"reason": " ".join(reason.split()), "restart": getattr(error, "restart", False)}
    write_atomic(run_dir / "server" / "failure.json", json.dumps(note).encode())
