"""Frames that a process of their own decodes: whatever a damaged file does to a decoder ends that process alone."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr import frame_decoder

# What a process that ended may take to be gone.
SECONDS_TO_END = 5.0


class DecoderEndedError(Exception):
    """The process ended instead of an answer: its decoder crashed, or took more time than such a frame may.

    Attributes:
        passing: it ended before any request, or was killed, as the system does that lacks memory: not the file's fault.
    """

    def __init__(self, passing: bool) -> None:
        super().__init__()
        self.passing = passing


class RefusedError(Exception):
    """The decoder raised an exception; ``passing`` if the system was the reason, so that another try may go better."""

    def __init__(self, kind: str, passing: bool) -> None:
        super().__init__(kind)
        self.passing = passing


class FrameDecoder(contextlib.AbstractContextManager["FrameDecoder"]):
    """Decodes compressed frames of DICOM files by :mod:`fedkr.frame_decoder`, which the first of them starts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __exit__(self, *raised: object) -> None:
        self._end()

    def frame(self, file: Path, index: int, plugin: str) -> NDArray[Any]:
        """Return a frame's values as pydicom's ``pixel_array`` does.

        Raises:
            DecoderEndedError: time beyond what a frame of this size may take, a crash, or the system's doing.
            RefusedError: the decoder refused the frame.
        """
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        request = {"file": os.fsencode(file.absolute()).hex(), "index": index, "plugin": plugin}
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline() or b"null")
            if answer and "error" not in answer:
                dtype, shape = np.dtype(answer["dtype"]), answer["shape"]
                content = process.stdout.read(dtype.itemsize * math.prod(shape))
                return np.frombuffer(content, dtype).reshape(shape)
        except (OSError, ValueError):
            answer = None
        except BaseException:
            self._end()  # what it still has to say would be taken for the next answer
            raise
        if answer is None:
            killed = _status(process) == -signal.SIGKILL
            self._end()
            raise DecoderEndedError(passing=killed)
        raise RefusedError(answer["error"], answer["passing"])

    def _start(self) -> subprocess.Popen[bytes]:
        # By its path, and with nothing of the current folder (-P): a json.py beside the images is not run. A damaged
        # file can have libraries print what it holds.
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", frame_decoder.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            ready = process.stdout.readline() == frame_decoder.READY
        except BaseException:
            self._end()
            raise
        if not ready:
            self._end()
            raise DecoderEndedError(passing=True)
        return process

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()
        self._process = None


def _status(process: subprocess.Popen[bytes]) -> int | None:
    """Return how a process ended of its own accord, None if it still runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(SECONDS_TO_END)
    return None
