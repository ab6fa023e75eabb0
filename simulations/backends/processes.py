"""Processes that must not outlive a run: started on a leash, found again after a crash, stopped for certain."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType

import psutil

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _leash() -> Callable[[], None] | None:
    """Return what makes a new child die with its parent, where the system offers it."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: a forked child should do as little as it can
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(command: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a process in its own session, writing to ``log``; a ``kill -9`` of this process takes it along (Linux)."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_leash(),
        )


def family(pids: Iterable[int]) -> set[psutil.Process]:
    """Return these processes and all that descend from them."""
    members: set[psutil.Process] = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            members |= {root, *root.children(recursive=True)}
    return members


def users_of(home: Path) -> set[psutil.Process]:
    """Return the processes, other than this one, whose environment or command line names ``home``."""
    found = set()
    for process in psutil.process_iter():
        # Another user's process, or one that just ended, cannot be read: it is none of ours.
        with contextlib.suppress(psutil.Error):
            words = [process.environ().get("FLWR_HOME", ""), *process.cmdline()]
            if process.pid != os.getpid() and any(str(home) in word for word in words):
                found.add(process)
    return found


def stop(processes: set[psutil.Process], grace: float) -> None:
    """Ask the processes to end, and kill those that are still there after ``grace`` seconds."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=grace)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)


def is_running(process: psutil.Process) -> bool:
    """Tell whether a process still runs; one that ended but was not waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into :class:`SystemExit` meanwhile, so that ``finally`` blocks clean up.

    Only the main thread may set a handler; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
