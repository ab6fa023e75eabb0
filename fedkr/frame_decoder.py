"""A process that decodes the compressed frames of DICOM files, since a damaged one can take hours, or all memory.

Decoders are compiled code that no exception stops. So before each frame this process asks the system to end it beyond
the processor time that a frame of this size may take, and to refuse it more memory. Its owner
(:mod:`fedkr.data.pictures.apart`) then starts another one, and the file has cost itself only.

It is run as ``python -m fedkr.frame_decoder``, and loads nothing else of fedkr. Requests are lines of JSON, ``file``
(hex of the name's bytes), ``index`` and ``plugin``; so are answers: ``dtype`` and ``shape``, which the array's bytes
follow, or ``error``, the name of an exception's type, with ``passing``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# Ten times what decoders took that were measured, and what one needs to begin.
SECONDS, SECONDS_A_PIXEL = 0.5, 0.5e-6
BYTES, BYTES_A_PIXEL = 100_000_000, 24


def main() -> None:
    """Answer requests until there are no more."""
    import pydicom.pixels

    with contextlib.suppress(ImportError):
        import openjpeg  # noqa: F401
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints is no answer.
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        try:
            _write(answers, _decoded(pydicom, json.loads(line)))
        except Exception as error:  # a decoder raises whatever the bytes lead it to
            passing = isinstance(error, OSError) and error.errno is not None
            _say(answers, {"error": type(error).__name__, "passing": passing})


def _decoded(pydicom: Any, request: dict[str, Any]) -> NDArray[Any]:
    dataset = pydicom.dcmread(Path(os.fsdecode(bytes.fromhex(request["file"]))))
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    limit_memory(BYTES + BYTES_A_PIXEL * pixels)
    signal.setitimer(signal.ITIMER_PROF, SECONDS + SECONDS_A_PIXEL * pixels)
    try:
        found = pydicom.pixels.pixel_array(dataset, index=request["index"], decoding_plugin=request["plugin"])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return np.ascontiguousarray(found)


def limit_memory(more: int) -> None:
    """Have the system refuse this process more than so many bytes beyond what it holds; Linux only."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + more, hard))


def _write(answers: IO[bytes], array: NDArray[Any]) -> None:
    _say(answers, {"dtype": array.dtype.str, "shape": array.shape})
    answers.write(array.data)
    answers.flush()


def _say(answers: IO[bytes], what: dict[str, Any]) -> None:
    answers.write(json.dumps(what).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
