"""How a run ends badly: one line for the user, and whether starting again can help."""

from __future__ import annotations

import json
from pathlib import Path

from fedkr.artifacts import write_atomic


class StudyFailedError(Exception):
    """The study cannot go on.

    Args:
        reason: one line for the user.
        restart: whether the same run, started again, can be expected to get further (a worker died).
    """

    def __init__(self, reason: str, restart: bool = False) -> None:
        super().__init__(reason)
        self.restart = restart


def leave_note(run_dir: Path, error: Exception) -> None:
    """Write why the run failed to where the driver looks for it."""
    reason = str(error) or type(error).__name__
    note = {"reason": " ".join(reason.split()), "restart": getattr(error, "restart", False)}
    write_atomic(run_dir / "server" / "failure.json", json.dumps(note).encode())
