"""A hospital's own ``.npz`` file in the MedMNIST layout, and the reader that MedMNIST's own files share.

Arrays: ``train_images`` uint8 ``[N, S, S]`` or ``[N, S, S, 1 or 3]`` and ``train_labels`` integer ``[N]`` or
``[N, 1]``; optional ``val_*`` and ``test_*`` alike; optional integer ``train_groups`` and ``val_groups`` (patients)
``[N]``; optional text ``classes`` ``[K]``.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import DataConfig
from fedkr.data.images import ImageSet, joined
from fedkr.data.registry import Source, set_apart_test
from fedkr.errors import UserError

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64] | None]


def load(config: DataConfig) -> Source:
    """Return the file at ``config.path``; without ``test_images`` a share is set apart (``config.test_fraction``)."""
    if not config.path:
        raise UserError("data.path='': name the .npz file (train_images, train_labels, ...) to read")
    with NpzFile(Path(config.path).expanduser()) as file:
        return read_source(file, config.classes, config.test_fraction)


class NpzFile(contextlib.AbstractContextManager["NpzFile"]):
    """An open ``.npz`` whose every failure is one line naming the file and the array."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; name an existing .npz file") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            # NumPy takes whatever is neither .npz nor .npy for a pickle, and advises to load it as one.
            reason = "neither .npz nor .npy" if isinstance(error, ValueError) else error
            raise UserError(f"{path}: not a readable .npz file ({reason}); copy or download it again") from None
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise UserError(f"{path}: holds one bare array; save train_images and train_labels with numpy.savez")
        self._content = content

    def __exit__(self, *raised: object) -> None:
        self._content.close()

    def __contains__(self, key: str) -> bool:
        return key in self._content.files

    def read(self, key: str) -> NDArray[Any]:
        """Return one array; raise :class:`UserError` if it is missing, corrupt, too large or holds Python objects."""
        if key not in self:
            found = ", ".join(self._content.files) or "nothing"
            raise UserError(f"{self.path}: has no array {key!r} (found: {found}); add it")
        try:
            return self._content[key]
        except MemoryError:
            raise UserError(f"{self.path}: {key} does not fit into memory; use a smaller image size") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = "Python objects" if "allow_pickle" in str(error) else f"damaged: {error}"
            raise UserError(f"{self.path}: {key} cannot be read ({reason}); save it again as plain numbers") from None


def read_source(file: NpzFile, classes: Sequence[str] = (), test_fraction: float = 0.2) -> Source:
    """Read a file in the MedMNIST layout: train and val become the pool, test the global test set.

    Args:
        file: the open file.
        classes: class names in label order; empty for the file's own (array ``classes``, else the numbers).
        test_fraction: share of the pool set apart where the file has no ``test_images``.

    Raises:
        UserError: as :func:`read_splits`; or train has groups and val has none, or the other way round.
    """
    splits = read_splits(file, ("train", "val", "test"), classes)
    test = splits.pop("test", None)
    without = [name for name, part in splits.items() if part.groups is None]
    if without and len(without) < len(splits):
        raise UserError(
            f"{file.path}: {without[0]}_groups is missing while another split has groups; give both or neither"
        )
    pool = joined(list(splits.values()))
    if test is None:
        return set_apart_test(pool, test_fraction, str(file.path))
    return Source(pool, test, val=len(splits["val"]) if "val" in splits else 0)


def read_splits(file: NpzFile, names: Sequence[str], classes: Sequence[str] = ()) -> dict[str, ImageSet]:
    """Return the splits ``names`` as they stand in the file, ``train`` and those of the others that it has.

    Raises:
        UserError: a missing array, a wrong shape or dtype, NaN, counts, sizes or labels that do not fit together.
    """
    splits = {name: _read_split(file, name) for name in names if name == "train" or _has_split(file, name)}
    _check_shapes(file, splits)
    known = _class_names(file, splits, classes)
    return {name: ImageSet(images, labels, known, groups) for name, (images, labels, groups) in splits.items()}


def _has_split(file: NpzFile, split: str) -> bool:
    return f"{split}_images" in file or f"{split}_labels" in file


def _read_split(file: NpzFile, split: str) -> Arrays:
    images = _read_squares(file, f"{split}_images")
    labels = _read_labels(file, f"{split}_labels", len(images))
    key = f"{split}_groups"
    groups = _read_integers(file, key, len(images)) if split != "test" and key in file else None
    return images, labels, groups


def read_images(file: NpzFile, key: str) -> NDArray[np.uint8]:
    """Return uint8 images ``[N, H, W, 1 or 3]``; raise :class:`UserError` for an array of anything else."""
    images = file.read(key)
    where = f"{file.path}: {key}"
    _refuse_nan(where, images, "repair them and save as uint8, 0 to 255")
    if images.dtype != np.uint8:
        raise UserError(f"{where} has dtype {images.dtype}; save it as uint8, 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(f"{where} has shape {list(images.shape)}; save it as [N, S, S] or [N, S, S, 1 or 3]")
    return images


def _read_squares(file: NpzFile, key: str) -> NDArray[np.uint8]:
    images, where = read_images(file, key), f"{file.path}: {key}"
    if images.shape[1] != images.shape[2]:
        raise UserError(
            f"{where} has images of {images.shape[1]} x {images.shape[2]} pixels; crop or pad them to squares"
        )
    if not images.size:
        raise UserError(f"{where} is empty (shape {list(images.shape)}); leave the split out or add images")
    return images


def _read_labels(file: NpzFile, key: str, count: int) -> NDArray[np.int64]:
    labels = _read_integers(file, key, count)
    if labels.min() < 0:
        raise UserError(f"{file.path}: {key} holds {labels.min()}; labels count from 0")
    return labels


def _read_integers(file: NpzFile, key: str, count: int) -> NDArray[np.int64]:
    values = file.read(key)
    where = f"{file.path}: {key}"
    _refuse_nan(where, values, "give every image a whole number")
    if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"{where} has dtype {values.dtype}; save it as whole numbers (int64)")
    if values.shape not in ((count,), (count, 1)):
        raise UserError(
            f"{where} has shape {list(values.shape)} for {count} images; save one number an image, [{count}]"
        )
    return values.reshape(count).astype(np.int64)


def _refuse_nan(where: str, values: NDArray[Any], remedy: str) -> None:
    if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise UserError(f"{where} holds {int(np.isnan(values).sum())} NaN values; {remedy}")


def _check_shapes(file: NpzFile, splits: dict[str, Arrays]) -> None:
    expected = splits["train"][0].shape[1:]
    for split, (images, _, _) in splits.items():
        if images.shape[1:] != expected:
            raise UserError(
                f"{file.path}: {split}_images has images of shape {list(images.shape[1:])}, "
                f"train_images of {list(expected)}; save all splits in one size"
            )


def _class_names(file: NpzFile, splits: dict[str, Arrays], classes: Sequence[str]) -> tuple[str, ...]:
    tops = {split: int(labels.max()) for split, (_, labels, _) in splits.items()}
    names = tuple(classes) or _stored_names(file) or tuple(str(label) for label in range(max(tops.values()) + 1))
    if len(names) < 2:
        raise UserError(f"{file.path}: only one class; name the study's classes, as in data.classes=[healthy,ill]")
    for split, top in tops.items():
        if top >= len(names):
            raise UserError(
                f"{file.path}: {split}_labels holds {top}, but there are {len(names)} class names {list(names)}; "
                f"labels run from 0 to {len(names) - 1}"
            )
    return names


def _stored_names(file: NpzFile) -> tuple[str, ...]:
    if "classes" not in file:
        return ()
    names = file.read("classes")
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UserError(
            f"{file.path}: classes has dtype {names.dtype} and shape {list(names.shape)}; save it as text, [K]"
        )
    return tuple(str(name) for name in names)
