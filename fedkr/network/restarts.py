"""Work that is started again: a worker of a simulation may die, a port be taken, and finished stages are files."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fedkr.errors import StudyFailedError

logger = logging.getLogger(__name__)


def with_restarts(attempt: Callable[[], None], restarts: int) -> None:
    """Call ``attempt`` until it completes, again only after failures that a restart can cure.

    Raises:
        StudyFailedError: the last failure, when it is not to be restarted or ``restarts`` are used up.
    """
    for left in range(restarts, -1, -1):
        try:
            attempt()
            return
        except StudyFailedError as failure:
            if not failure.restart or left == 0:
                raise
            logger.warning("%s; starting the run again (restarts left after this one: %d)", failure, left - 1)
