"""A TorchScript model that answers from a confined process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedkr.errors import UserError
from simulations.audit_run.torchscript.child import TENSOR
from simulations.audit_run.torchscript.confinement import why_not
from simulations.audit_run.torchscript.messages import ANSWER, LENGTH, OTHER_TYPE, read_message, write_message

CHILD = "from simulations.audit_run.torchscript.child import main; main()"
PASSED_ON = ("PATH", "LD_LIBRARY_PATH")
# For one answer: the model read, or a batch of images.
PATIENCE = 300.0
LARGEST_ANSWER = 64 * 2**20


class ConfinedModel(nn.Module):
    """A TorchScript model in a child process, on the processor (:mod:`.child`, :mod:`.confinement`).

    Raises:
        UserError: a system that cannot confine a process, a file that cannot be loaded, or one that is refused.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        if (lack := why_not()) is not None:
            raise UserError(
                f"{path}: TorchScript is code, which runs confined only, and this system cannot do that: {lack}; take "
                "Linux 5.13 or later, or the model's weights (.safetensors, --arch)"
            )
        self.path, self.patience = path, PATIENCE
        self._folder = tempfile.TemporaryDirectory(prefix="fedkr-model-")
        self._child = _start(self._folder.name)
        weakref.finalize(self, _end, self._child)
        kind, content = self._asked(self._send_archive)
        if kind != ANSWER:
            raise UserError(f"{path}: not a TorchScript file that can be run safely ({_text(content)})")

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's output for float32 ``[N, C, H, W]``, on the input's device.

        Raises:
            UserError: no tensor, no answer in time, or a process that ended.
            RuntimeError: the model's own error.
        """
        content = safetensors.torch.save({TENSOR: x.detach().cpu().float().contiguous()})
        kind, answer = self._asked(partial(write_message, content=content))
        if kind == OTHER_TYPE:
            raise UserError(f"{self.path}: returns a {_text(answer)}; it must return logits [N, classes]")
        if kind != ANSWER:
            raise RuntimeError(_text(answer))
        try:
            return safetensors.torch.load(answer)[TENSOR].to(x.device)
        except (SafetensorError, KeyError):
            raise UserError(f"{self.path}: the process that runs the model answers with no tensor") from None

    def _asked(self, send: Callable[[IO[bytes]], None]) -> tuple[bytes, bytes]:
        """Send, and return the kind of the answer and its content; end a child that takes too long."""
        late, answer = threading.Event(), None

        def give_up() -> None:
            late.set()
            self._child.kill()

        timer = threading.Timer(self.patience, give_up)
        timer.start()
        try:
            with suppress(OSError):
                send(_pipe(self._child.stdin))
                answer = read_message(_pipe(self._child.stdout), LARGEST_ANSWER)
        finally:
            timer.cancel()
        if late.is_set():
            raise UserError(f"{self.path}: the model gave no answer in {self.patience:g} seconds")
        if not answer:
            _end(self._child)
            raise UserError(f"{self.path}: the process that runs the model ended; the model is too large, or broken")
        return answer[:1], answer[1:]

    def _send_archive(self, pipe: IO[bytes]) -> None:
        """Send the file as it lies there, a piece at a time: nothing here parses it."""
        with self.path.open("rb") as file:
            pipe.write(LENGTH.pack(os.fstat(file.fileno()).st_size))
            shutil.copyfileobj(file, pipe, 2**20)
        pipe.flush()


def _start(folder: str) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        # Its threads would run before the process is confined, and a GPU is no file of the model's.
        "OPENBLAS_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    command = [sys.executable, "-c", CHILD]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, cwd=folder, env=environment)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):
            _pipe(pipe).close()


def _text(content: bytes) -> str:
    """Return what a child says in one printable line: it may speak for the model."""
    text = " ".join(content.decode(errors="replace").split())[:200]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
