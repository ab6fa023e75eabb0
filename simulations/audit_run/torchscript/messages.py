"""Messages on a pipe between a model's process and the one that asks it: the length in 8 bytes, then the bytes."""

from __future__ import annotations

import struct
from typing import IO

LENGTH = struct.Struct("<Q")
# How an answer starts: the content that was asked for, an error, the name of a type that is none.
ANSWER, ERROR, OTHER_TYPE = b"=", b"!", b"?"


def write_message(pipe: IO[bytes], content: bytes) -> None:
    """Write one message."""
    pipe.write(LENGTH.pack(len(content)) + content)
    pipe.flush()


def read_message(pipe: IO[bytes], most: int | None = None) -> bytes | None:
    """Return the next message; None where the other side is gone, or says more than ``most`` bytes."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    if most is not None and length > most:
        return None
    content = pipe.read(length)
    return content if len(content) == length else None
