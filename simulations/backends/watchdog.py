"""A process beside the driver that ends a run's processes when the driver says so, or is gone without a word.

``kill -9`` and a full memory leave a driver no time to clean up, and its processes would compute on for hours.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import psutil

from simulations.backends.processes import children_of, end_run, users_of, with_descendants

TICK = 1.0


def watch(driver: int, home: Path) -> None:
    """Wait until standard input, which the driver holds open, ends; then end the run that has this home.

    Some of Ray's processes overwrite their own environment, so they are told by whom they descend from, which can be
    seen only while their parents live.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # asked to end with all others, it has to be the last
    known: set[psutil.Process] = set()
    over = False
    while not over:
        over = bool(select.select([sys.stdin], [], [], TICK)[0])
        known = with_descendants(known | users_of(home, children_of(driver)))
    end_run(home, known)


if __name__ == "__main__":
    watch(os.getppid(), Path(sys.argv[1]))
