"""Decoded images on disk, so that a process need not decode a folder again that another one has decoded.

Two files in a folder of the site's own workspace: the array, which is mapped into memory and not read, and then one
document, whose being there says that both are whole. Their name is a digest of all that they depend on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fedkr.data.listing import LeftOut
from fedkr.disk import write_atomic, write_atomic_stream
from fedkr.errors import UserError
from fedkr.fingerprint import fingerprint
from fedkr.stages import code_version

logger = logging.getLogger(__name__)
DECODERS = (
    "pillow",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "python-gdcm",
    "gdcm",
)
ABANDONED_SECONDS = 24 * 3600
KEPT = "decoded-"


@dataclass(frozen=True)
class Decoded:
    """What a list of files gave, in its order.

    Attributes:
        images: uint8 ``[N, H, W, 1 or 3]``.
        entry: int64 ``[N]``, which file each image is of.
        patient: int64 ``[N]``, numbers of the patients that DICOM headers name, -1 for none.
        left_out: files that gave none.
        warnings: one line each, without names.
        passing: some files gave none for a reason that may not last, so that this is not kept.
    """

    images: NDArray[np.uint8]
    entry: NDArray[np.int64]
    patient: NDArray[np.int64]
    left_out: list[LeftOut] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    passing: bool = False

    def document(self) -> dict[str, Any]:
        """Return all that is kept but the images, as JSON can hold it."""
        names = [name.name for name in dataclasses.fields(self) if name.name not in ("images", "passing")]
        values = {name: getattr(self, name) for name in names}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @staticmethod
    def of_document(images: NDArray[np.uint8], document: dict[str, Any]) -> Decoded:
        """Return what :meth:`document` and images came from."""
        left_out = [LeftOut(*row) for row in document["left_out"]]
        entry, patient = (np.array(document[name], dtype=np.int64) for name in ("entry", "patient"))
        return Decoded(images, entry, patient, left_out, document["warnings"])


def kept(folder: Path | None, depends: Mapping[str, Any], decode: Callable[[], Decoded]) -> Decoded:
    """Return what ``folder`` keeps for ``depends``, else what ``decode`` returns, which it keeps from then on.

    A folder that cannot be written, a damaged file, or a failure that may pass, costs the time to decode and nothing
    else. Only the newest is kept: images that were taken from the dataset do not stay here, also where what is left of
    it can be used no longer. With None nothing is kept.
    """
    if folder is None:
        return decode()
    name = _name(depends)
    array, document = folder / f"{name}.npy", folder / f"{name}.json"
    with contextlib.suppress(Exception):  # not there, or damaged: the parser raises whatever its bytes lead it to
        return _read(array, document)
    try:
        found = decode()
    except UserError:
        drop_others(folder)
        raise
    if found.passing:
        return found
    drop_others(folder)
    try:
        _write(found, array, document)
    except UserError as error:
        logger.warning("decoded images are not kept, and will be decoded again: %s", error)
    return found


def drop_others(folder: Path, depends: Mapping[str, Any] | None = None) -> None:
    """Remove what is kept of other files than ``depends`` says, or for None all; and what a killed process left."""
    name = depends and _name(depends)
    for path in folder.glob("*"):
        # Another process may be writing under a temporary name: only what nobody has touched for a day is abandoned.
        with contextlib.suppress(OSError):
            temporary = path.suffix == ".tmp" and time.time() - path.stat().st_mtime > ABANDONED_SECONDS
            if temporary or (path.name.startswith(KEPT) and path.stem != name):
                path.unlink()


def _name(depends: Mapping[str, Any]) -> str:
    return KEPT + fingerprint({"code": code_version(), "decoders": _versions(), **depends})


def _versions() -> list[str]:
    """Return the versions of what decodes, of those packages that are installed."""
    found = []
    for name in DECODERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def _read(array: Path, document: Path) -> Decoded:
    values = json.loads(document.read_text(encoding="utf-8"))
    images = np.load(array, mmap_mode="r", allow_pickle=False)
    found = Decoded.of_document(images, values)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) == len(found.entry) == len(found.patient):
        raise ValueError("not what was written")
    return found


def _write(found: Decoded, array: Path, document: Path) -> None:
    def write_array(handle: IO[bytes]) -> None:
        np.lib.format.write_array(handle, found.images, allow_pickle=False)

    write_atomic_stream(array, write_array, mode=0o600)
    write_atomic(document, json.dumps(found.document()).encode(), mode=0o600)
