"""A process that decodes the compressed frames of DICOM files, since a damaged one can take hours, or all memory.

Decoders are compiled code that no exception stops. So before each frame this process asks the system to end it beyond
the processor time that a frame of this size may take, and to refuse it more memory. Its owner
(:mod:`fedkr.data.pictures.apart`) then starts another one, and the file has cost itself only.

It is run as a script by its path, and loads nothing else of fedkr: neither the current folder nor how fedkr was
installed decides what is run. It says :data:`READY` once. Requests are lines of JSON, ``file`` (hex of the name's
bytes), ``index`` and ``plugin``; so are answers: ``dtype`` and ``shape``, which the array's bytes follow, or ``error``,
the name of an exception's type, with ``passing``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# Ten times what decoders took that were measured, and what one needs to begin.
SECONDS, SECONDS_A_PIXEL = 0.5, 0.5e-6
BYTES, BYTES_A_PIXEL = 100_000_000, 24


READY = b"ready\n"


def main() -> None:
    """Answer requests until there are no more."""
    import pydicom.pixels  # noqa: F401

    with contextlib.suppress(ImportError):
        import openjpeg  # noqa: F401
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints is no answer.
    os.dup2(2, 1)
    answers.write(READY)
    answers.flush()
    last = LastFile()
    for line in sys.stdin.buffer:
        found = answer(json.loads(line), last)
        if isinstance(found, dict):
            _say(answers, found)
        else:
            _write(answers, found)


class LastFile:
    """The file that was parsed last: the frames of one are asked for one by one."""

    def __init__(self) -> None:
        self._stamp: tuple[Any, ...] = ()
        self._dataset: Any = None

    def read(self, file: Path) -> Any:
        """Return a file's dataset, parsed anew if it is another file or was changed."""
        import pydicom

        found = file.stat()
        stamp = (file, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if stamp != self._stamp:
            self._stamp, self._dataset = (), None  # of large files never two at once
            self._dataset = pydicom.dcmread(file)
            self._stamp = stamp
        return self._dataset


def answer(request: dict[str, Any], last: LastFile) -> NDArray[Any] | dict[str, Any]:
    """Return the frame that is asked for, or what to say of the failure.

    The file is parsed without a limit, so that memory that is lacking there is the system's; what a decoder asks for
    beyond its limit is the file's doing.
    """
    try:
        dataset = last.read(Path(os.fsdecode(bytes.fromhex(request["file"]))))
    except Exception as error:  # as below
        return _refused(error, passing=isinstance(error, MemoryError))
    try:
        return _decoded(dataset, request["index"], request["plugin"])
    except Exception as error:  # a decoder raises whatever the bytes lead it to
        return _refused(error)


def _refused(error: Exception, passing: bool = False) -> dict[str, Any]:
    of_system = isinstance(error, OSError) and error.errno is not None
    return {"error": type(error).__name__, "passing": passing or of_system}


def _decoded(dataset: Any, index: int, plugin: str) -> NDArray[Any]:
    import pydicom.pixels

    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    with limits(BYTES + BYTES_A_PIXEL * pixels, SECONDS + SECONDS_A_PIXEL * pixels):
        found = pydicom.pixels.pixel_array(dataset, index=index, decoding_plugin=plugin)
    return np.ascontiguousarray(found)


@contextlib.contextmanager
def limits(more: int, seconds: float) -> Iterator[None]:
    """Have the system refuse this process more than so many bytes beyond what it holds (Linux only), and end it then.

    Both limits hold inside alone: what follows may be a larger file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + more, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _write(answers: IO[bytes], array: NDArray[Any]) -> None:
    _say(answers, {"dtype": array.dtype.str, "shape": array.shape})
    answers.write(array.data)
    answers.flush()


def _say(answers: IO[bytes], what: dict[str, Any]) -> None:
    answers.write(json.dumps(what).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
