"""The files that a dataset lies in: known again by their times, and asked for by a digest of all their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from fedkr.config import DataConfig
from fedkr.data.listing import walk
from fedkr.disk import write_atomic
from fedkr.errors import UserError
from fedkr.fingerprint import fingerprint

logger = logging.getLogger(__name__)

DIGEST_FILE = "digest.json"
# A clock that ticks every so many nanoseconds at most, on any file system: a file that changed since could change
# again, and its times would be the same.
TICK = 2_000_000_000


class FileStamp(NamedTuple):
    """What changes when a file does: where and which it is, bytes, and times of content and inode (ns)."""

    path: str
    inode: int
    size: int
    changed: int
    # Of a file that is copied over with its time of change, the inode's still changes.
    inode_changed: int


Stamp = tuple[FileStamp, ...]


def file_stamp(config: DataConfig) -> Stamp:
    """Return what changes when the dataset's file, or one of its files, is replaced; empty where there is none."""
    return _stamp(_files(config))


def file_digest(config: DataConfig, cache: Path | None = None) -> str:
    """Return 64 hex digits of the bytes of the dataset's file, folder or table, whether they are images or not.

    A file that cannot be read counts by its name alone. Where ``config`` names no path there is nothing to read: then
    the digest says nothing of the images.

    Args:
        config: the dataset.
        cache: a folder of this account's own that keeps the digest with the files' stamps, so that later processes need
            not read files that are as they were; None keeps nothing.
    """
    files = tuple(_files(config))
    return _digest_once(config.path, files, _stamp(files), cache)


@lru_cache(maxsize=4)
def _digest_once(path: str, files: tuple[Path, ...], stamp: Stamp, cache: Path | None) -> str:
    kept, of = cache and cache / DIGEST_FILE, fingerprint({"path": path, "files": stamp})
    known = kept and _read(kept, of)
    if known:
        return known
    began = time.time_ns()
    found = _digest(path, files)
    if kept and _stamp(files) == stamp and all(file.inode_changed < began - TICK for file in stamp):
        try:
            write_atomic(kept, json.dumps({"files": of, "digest": found}).encode(), mode=0o600)
        except UserError as error:
            logger.warning("the digest of the files is not kept, and they will be read again: %s", error)
    return found


def _read(kept: Path, of: str) -> str | None:
    """Return the digest that is kept of these very files; None for others, or what is no digest."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        values = json.loads(kept.read_text(encoding="utf-8"))
        if values["files"] == of and len(bytes.fromhex(values["digest"])) == hashlib.sha256().digest_size:
            return str(values["digest"])
    return None


def _digest(path: str, files: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        content = hashlib.sha256()
        with contextlib.suppress(OSError, ValueError):
            if file.is_file():  # a pipe would be waited for
                with file.open("rb") as handle:
                    content = hashlib.file_digest(handle, "sha256")
        name = os.path.relpath(file, path)
        whole.update(f"{name}\0{content.hexdigest()}\0".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _stamp(files: Sequence[Path]) -> Stamp:
    stamps = []
    for path in files:
        with contextlib.suppress(OSError, ValueError):
            found = path.stat()
            stamps.append(FileStamp(str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return tuple(stamps)


def _files(config: DataConfig) -> list[Path]:
    """Return all files that decide a dataset: its own, those in its folder, those that its table lists."""
    # An empty path would be the folder that the process happens to be in.
    if not config.path:
        return []
    root = Path(config.path)
    with contextlib.suppress(UserError):  # whoever loads the dataset is told
        if root.is_dir():
            return sorted(walk(root))
        if config.name == "table":
            table = importlib.import_module("fedkr.data.sources.table")
            return [root, *(entry.file for entry in table.listing(config).entries)]
    return [root] if root.is_file() else []
