"""A filter of Linux's system calls (seccomp): the process goes on computing, and asks the system for nothing else."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# What arithmetic, memory, threads, clocks and reading need, with the numbers on x86-64 and 64-bit ARM. No socket, no
# new process or program, no signal to others, no change to a file, its owner, its mode or its times.
CALLS = """
read 0 63, write 1 64, close 3 57, fstat 5 80, newfstatat 262 79, statx 332 291, stat 4 -, lstat 6 -, lseek 8 62,
pread64 17 67, readv 19 65, writev 20 66, access 21 -, faccessat 269 48, readlink 89 -, readlinkat 267 78,
getdents64 217 61, getcwd 79 17, dup 32 23, fcntl 72 25, fadvise64 221 223, poll 7 -, ppoll 271 73,
mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, brk 12 214, mincore 27 232,
futex 202 98, set_robust_list 273 99, set_tid_address 218 96, rseq 334 293, membarrier 324 283, sched_yield 24 124,
sched_getaffinity 204 123, getcpu 309 168, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
sigaltstack 131 132, nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114,
gettimeofday 96 169, time 201 -, times 100 153, getrusage 98 165, getrlimit 97 163, sysinfo 99 179, uname 63 160,
getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getrandom 318 278, exit 60 93, exit_group 231 94
"""
# Calls that pass by the bits of one of their arguments: (argument, bits, whether one of the bits must be set).
OPENING_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # the last: a file without a name
CLONE_THREAD = 0x10000
CONDITIONAL = {
    "open 2 -": (1, OPENING_TO_WRITE, False),
    "openat 257 56": (2, OPENING_TO_WRITE, False),
    "clone 56 220": (0, CLONE_THREAD, True),
    "prlimit64 302 261": (2, 0xFFFFFFFF, False),  # the address of new limits
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Instructions of the filter's language (linux/filter.h), and its answers (linux/seccomp.h).
LOAD, IF_EQUAL, IF_BITS, ANSWER = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2


def filter_calls() -> None:
    """Let this process and its later threads make only the calls above; cannot be undone.

    Raises:
        OSError: the system has no such filters, or another processor.
    """
    column, architecture = ARCHITECTURES[platform.machine()]
    program = b"".join(_program(column, architecture))
    instructions = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or prctl(SECCOMP, FILTER, described, 0, 0):
        raise OSError(ctypes.get_errno(), "the system refused the filter of system calls")


def _program(column: int, architecture: int) -> list[bytes]:
    """Return the filter: another architecture's calls and unlisted ones are unknown, those by condition looked at."""
    lines = [_line(LOAD, 4), _line(IF_EQUAL, architecture, 1, 0), _line(ANSWER, UNKNOWN), _line(LOAD, 0)]
    for call in CALLS.split(","):
        if (number := _number(call, column)) is not None:
            lines += [_line(IF_EQUAL, number, 0, 1), _line(ANSWER, ALLOW)]
    for call, (argument, bits, wanted) in CONDITIONAL.items():
        if (number := _number(call, column)) is not None:
            lines += [_line(IF_EQUAL, number, 0, 4), _line(LOAD, 16 + 8 * argument)]
            lines += [_line(IF_BITS, bits, int(not wanted), int(wanted)), _line(ANSWER, ALLOW), _line(ANSWER, REFUSE)]
    return [*lines, _line(ANSWER, UNKNOWN)]


def _number(call: str, column: int) -> int | None:
    number = call.split()[1 + column]
    return None if number == "-" else int(number)


def _line(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", operation, if_true, if_false, value)
