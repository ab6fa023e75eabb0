"""The processes of a run: found by the home that they were started with, stopped for certain."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil

GRACE = 2.0  # seconds that a process has to end by itself


def users_of(home: Path, among: Iterable[psutil.Process] | None = None) -> set[psutil.Process]:
    """Return the processes, other than this one, whose environment or command line names ``home``."""
    found = set()
    for process in psutil.process_iter() if among is None else among:
        # Another user's process, or one that just ended, cannot be read: it is none of ours.
        with contextlib.suppress(psutil.Error):
            words = [process.environ().get("FLWR_HOME", ""), *process.cmdline()]
            if process.pid != os.getpid() and any(str(home) in word for word in words):
                found.add(process)
    return found


def children_of(pid: int) -> list[psutil.Process]:
    """Return the processes that a process started; none where it is gone."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children()
    return []


def with_descendants(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Return those of these processes that are there, and all that descend from them, by one look at all processes."""
    children: dict[int, list[psutil.Process]] = defaultdict(list)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            children[process.ppid()].append(process)
    # A number that was given to another process since is not taken for the one that had it.
    waiting = [process for process in processes if process.is_running()]
    members: set[psutil.Process] = set()
    while waiting:
        process = waiting.pop()
        if process not in members:
            members.add(process)
            waiting += children[process.pid]
    return members


def end_run(home: Path, known: Iterable[psutil.Process] = ()) -> None:
    """Stop all processes of the run that has this home, those known and those that name it; remove the home."""
    _stop({*known, *users_of(home)})
    _stop(users_of(home))  # those that were being started meanwhile
    shutil.rmtree(home, ignore_errors=True)


def is_running(process: psutil.Process) -> bool:
    """Tell whether a process still runs; one that ended but was not waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _stop(processes: set[psutil.Process]) -> None:
    """Ask the processes to end, and kill those that still run after their grace."""
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                ask(process)
        until = time.monotonic() + GRACE
        while (processes := set(filter(is_running, processes))) and time.monotonic() < until:
            time.sleep(0.02)
