"""How a run ends badly: whatever stops it is noted for the driver, and told the user where it has a line for one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedkr.errors import StudyFailedError, UserError
from fedkr.failure import leave_note
from fedkr.run_files import RunFiles

logger = logging.getLogger("fedkr.server")


@contextmanager
def failures_noted(run_dir: Path) -> Iterator[None]:
    """Note in the server's folder what ends the block; it is raised again."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (UserError, StudyFailedError)):
            logger.error("└── fedkr: error: %s", error)
        # A disk that refuses the note must not take the place of what ended the study.
        with suppress(UserError):
            leave_note(RunFiles(run_dir).server, str(error) or type(error).__name__, getattr(error, "restart", False))
        raise
