"""Why work failed, as a note in its folder: the server leaves one for its driver, a site for its own engineer."""

from __future__ import annotations

import json
from pathlib import Path

from fedkr.disk import write_atomic
from fedkr.errors import StudyFailedError

NOTE = "failure.json"


def leave_note(folder: Path, reason: str, restart: bool = False, **details: str) -> None:
    """Write why the work of ``folder`` failed, and ``details`` for those who open the note."""
    note = {"reason": " ".join(reason.split()), "restart": restart, **details}
    write_atomic(folder / NOTE, json.dumps(note, indent=1).encode())


def read_note(folder: Path) -> StudyFailedError | None:
    """Return the reason in ``folder``, and whether it asks for a restart; None where no note can be read."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return StudyFailedError(str(note["reason"]), bool(note.get("restart", False)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def clear_note(folder: Path) -> None:
    """Remove what earlier work left, so that it cannot be taken for the reason of this."""
    (folder / NOTE).unlink(missing_ok=True)
