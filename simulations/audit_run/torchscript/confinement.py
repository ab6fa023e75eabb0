"""What a process that runs code from elsewhere is left with: its memory up to a bound, its libraries, and its pipes.

Linux's Landlock takes the files (5.13 or later), a filter of system calls (:mod:`.system_calls`) everything else.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import signal
import struct
import sys
import sysconfig
from pathlib import Path

from simulations.audit_run.torchscript.system_calls import ARCHITECTURES, NO_NEW_PRIVILEGES, filter_calls

# Landlock's calls, the same on every architecture, and its rights: all that it knew at first, then by version.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RIGHTS = (1 << 13) - 1
LATER = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
BENEATH_PATH, WHICH_VERSION = 1, 1
DIE_WITH_PARENT = 1
# Where torch reads which processors there are.
PROCESSORS = ("/sys/devices/system/cpu", "/proc/cpuinfo")
# Of the machine's memory, for all that the child takes after it started.
SHARE_OF_MEMORY = 0.5


def why_not() -> str | None:
    """Return what this system lacks to confine a process; None if nothing."""
    if not sys.platform.startswith("linux"):
        return f"{platform.system() or sys.platform} has no Landlock"
    if platform.machine() not in ARCHITECTURES:
        return f"its filter of system calls is not known for {platform.machine()}"
    if landlock_version() < 1:
        return "its kernel has no Landlock, or has it switched off"
    return None


def landlock_version() -> int:
    """Return which version of Landlock this Linux has; below 1 for none."""
    return int(ctypes.CDLL(None, use_errno=True).syscall(CREATE_RULESET, None, 0, WHICH_VERSION))


def confine() -> None:
    """Keep this process from all but computing, and from reading all but its libraries; for good.

    Raises:
        OSError: the system refuses, or threads run already, for which the rules would not hold.
    """
    if (lack := why_not()) is not None:
        raise OSError(lack)
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise OSError("threads of a library run already")
    _die_first()
    _limit_memory_and_files()
    _hide_files()
    filter_calls()


def libraries() -> list[Path]:
    """Return the folders of Python's standard library and of the installed packages."""
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    torch = importlib.util.find_spec("torch")
    if torch is not None and torch.origin is not None:
        folders.add(Path(torch.origin).parents[1])
    return sorted(folder for folder in folders if folder.is_dir())


def _die_first() -> None:
    """Die with the parent, and before it where memory runs out."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    Path("/proc/self/oom_score_adj").write_text("1000")


def _limit_memory_and_files() -> None:
    import resource

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = int(status["VmSize"].split()[0]) * 1024
    limit = held + int(memory * SHARE_OF_MEMORY)
    for kind, value in ((resource.RLIMIT_AS, limit), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (value, value))


def _hide_files() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    version = landlock_version()
    handled = struct.pack("Q", RIGHTS | sum(right for since, right in LATER.items() if version >= since))
    rules = libc.syscall(CREATE_RULESET, handled, len(handled), 0)
    for path in (*libraries(), *filter(Path.exists, map(Path, PROCESSORS))):
        place, right = os.open(path, os.O_PATH), READ_FILE | (READ_FOLDER if path.is_dir() else 0)
        if libc.syscall(ADD_RULE, rules, BENEATH_PATH, struct.pack("=Qi", right, place), 0):
            raise OSError(ctypes.get_errno(), f"Landlock refused its rule for {path}")
        os.close(place)
    if rules < 0 or libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(RESTRICT_SELF, rules, 0):
        raise OSError(ctypes.get_errno(), "Landlock refused its rules")
    os.close(rules)
