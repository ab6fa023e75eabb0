"""MedMNIST (Yang et al. 2023): every single-label 2D set at 28, 64, 128 or 224 pixels."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import medmnist

from fedkr.config import DataConfig
from fedkr.data.registry import Source
from fedkr.data.sources.npz import read_source
from fedkr.data.sources.npz_file import NpzFile
from fedkr.disk import from_home
from fedkr.errors import UserError

NAMES = tuple(medmnist.INFO)
SIZES = (28, 64, 128, 224)


def load(config: DataConfig) -> Source:
    """Return a MedMNIST set from its file in ``config.root``, downloaded first if ``config.download``.

    A file that fails the official checksum is used, with one warning.

    Raises:
        UserError: a multi-label or 3D set, an unknown size, a missing or corrupt file, a failed download.
    """
    info = _single_label_info(config.name)
    size = config.size or SIZES[0]
    if size not in SIZES:
        raise UserError(f"data.size={size}: {config.name} comes in {', '.join(map(str, SIZES))} pixels; choose one")
    suffix = "" if size == SIZES[0] else f"_{size}"
    path = from_home(Path(config.root)) / f"{config.name}{suffix}.npz"
    if not path.exists():
        _fetch(path, info, size, config.download)
    classes = [info["label"][str(index)] for index in range(len(info["label"]))]
    with NpzFile(path) as file:
        for split in ("val", "test"):
            if f"{split}_images" not in file:
                raise UserError(f"{path}: has no {split}_images, so it is not {config.name}; use data.name=npz for it")
        source = read_source(file, dataclasses.replace(config, classes=classes))
    if source.pool.size != size:
        raise UserError(f"{path}: holds images of {source.pool.size} pixels, expected {size}; put the right file there")
    return dataclasses.replace(source, warnings=[*source.warnings, *_checksum_warnings(path, info[f"MD5{suffix}"])])


def _single_label_info(name: str) -> dict[str, Any]:
    info = medmnist.INFO[name]
    if name.endswith("3d"):
        raise UserError(f"data.name={name!r}: 3D volumes are not supported; choose a 2D set such as breastmnist")
    if "multi-label" in info["task"]:
        raise UserError(
            f"data.name={name!r}: multi-label (an image can have several findings) is not supported; "
            "choose a single-label set such as pneumoniamnist"
        )
    return info


def _fetch(path: Path, info: dict[str, Any], size: int, allowed: bool) -> None:
    if not allowed:
        raise UserError(
            f"{path}: no such file; set data.download=true, or put it there, or point data.root at its folder"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside its final place and renamed when whole: an interrupted download leaves no half file behind.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            getattr(medmnist, info["python_class"])(split="val", download=True, root=folder, size=size)
            (Path(folder) / path.name).replace(path)
    except (OSError, RuntimeError, ValueError) as error:
        # The package hides the cause behind instructions of several lines.
        cause = " ".join(str(error.__context__ or error).split())
        raise UserError(f"{path}: the download failed ({cause}); try again, or put the file there by hand") from None


def _checksum_warnings(path: Path, expected: str) -> list[str]:
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found == expected:
        return []
    return [
        f"{path.name}: MD5 {found} is not the official {expected}; used as it is, so compare with no published figure"
    ]
