"""Files that are whole or not there: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from fedkr.errors import UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Write bytes under a temporary name, flush them to the disk, then rename; raise :class:`UserError` on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space or choose another folder") from None


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people to read; raise :class:`UserError` when the disk refuses."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
