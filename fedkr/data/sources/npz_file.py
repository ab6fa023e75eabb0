"""An open ``.npz`` file that may be damaged or hostile: whatever is wrong with it ends in one line."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.data.pictures.frame import LONGEST_REASON
from fedkr.errors import UserError

# What deflate can do at best, with a little for headers.
LARGEST_RATIO, SMALL = 1_032, 4_096
NAMED = 20


class NpzFile(contextlib.AbstractContextManager["NpzFile"]):
    """An open ``.npz`` whose every failure is one line naming the file and the array.

    No array is read before its header is known to promise no more than the file holds: a damaged or hostile file costs
    neither time nor memory beyond its own size, unpacked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as handle:
                magic = handle.read(len(np.lib.format.MAGIC_PREFIX))
            if magic == np.lib.format.MAGIC_PREFIX:
                raise UserError(f"{path}: holds one bare array; save train_images and train_labels with numpy.savez")
            self._archive = zipfile.ZipFile(path)
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; name an existing .npz file") from None
        except Exception as error:  # the parser of a damaged archive raises whatever its bytes lead it to
            raise UserError(f"{path}: not a readable .npz file ({_line(error)}); copy or download it again") from None
        self._members = {member.filename.removesuffix(".npy"): member for member in self._archive.infolist()}

    def __exit__(self, *raised: object) -> None:
        self._archive.close()

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def header(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of an array without reading it; raises as :meth:`read` does."""
        if key not in self:
            found = ascii(", ".join(list(self._members)[:NAMED]) or "nothing").strip("'")
            raise UserError(f"{self.path}: has no array {key!r} (found: {found}); add it")
        with self._named(key):
            return self._checked_header(self._members[key])

    def read(self, key: str) -> NDArray[Any]:
        """Return one array; raise :class:`UserError` if it is missing, corrupt, too large or holds Python objects."""
        self.header(key)
        with self._named(key), self._archive.open(self._members[key]) as handle:
            return np.lib.format.read_array(handle, allow_pickle=False)

    @contextlib.contextmanager
    def _named(self, key: str) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise UserError(f"{self.path}: {key} does not fit into memory; use a smaller image size") from None
        except Exception as error:  # as in the constructor
            reason = "Python objects" if "allow_pickle" in str(error) else f"damaged: {_line(error)}"
            raise UserError(f"{self.path}: {key} cannot be read ({reason}); save it again as plain numbers") from None

    def _checked_header(self, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("packed by another method than numpy.savez has")
        if member.file_size > LARGEST_RATIO * member.compress_size + SMALL:
            raise ValueError(f"{member.compress_size} bytes cannot unpack to {member.file_size}")
        with self._archive.open(member) as handle:
            # Later versions have longer headers, for structured arrays.
            if np.lib.format.read_magic(handle) != (1, 0):
                raise ValueError("no plain array of version 1.0")
            shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
            left = member.file_size - handle.tell()
        if dtype.hasobject:
            raise ValueError("objects, which need allow_pickle")
        if min(shape, default=0) < 0 or dtype.itemsize * math.prod(shape) != left:
            raise ValueError(f"its header promises {dtype} {list(shape)}, the file holds {left} bytes")
        return shape, dtype


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
