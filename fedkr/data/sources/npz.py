"""A hospital's own ``.npz`` file in the MedMNIST layout, and the reader that MedMNIST's own files share.

Arrays: ``train_images`` uint8 ``[N, S, S]`` or ``[N, S, S, 1 or 3]`` and ``train_labels`` ``[N]`` or ``[N, 1]``, whole
numbers or text (:mod:`fedkr.data.sources.labels`); optional ``val_*`` and ``test_*`` alike; optional ``train_groups``,
``val_groups`` and ``test_groups`` (patients) ``[N]``, whole numbers or text; optional text ``classes`` ``[K]``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import DataConfig
from fedkr.data.images import ImageSet, joined
from fedkr.data.listing import same_text
from fedkr.data.pictures.frame import LONGEST_REASON
from fedkr.data.registry import Source, set_apart_test
from fedkr.data.sources.labels import LONGEST_NAME, Values, classes_of, groups_of, texts, whole_numbers
from fedkr.disk import from_home
from fedkr.documents import MOST_CLASSES
from fedkr.errors import UserError

# What deflate can do at best, with a little for headers.
LARGEST_RATIO, SMALL = 1_032, 4_096
NAMED = 20
# Of larger arrays of the wrong type nobody counts what is not a number.
LOOKED_AT = 16_000_000
WITHOUT_TEST_GROUPS = "test_groups is missing, so nobody knows if a patient of train_groups is in the test set too"

Arrays = tuple[NDArray[np.uint8], Values, Values | None]


def load(config: DataConfig) -> Source:
    """Return the file at ``config.path``; without ``test_images`` a share is set apart (``config.test_fraction``)."""
    if not config.path:
        raise UserError("data.path='': name the .npz file (train_images, train_labels, ...) to read")
    with NpzFile(from_home(Path(config.path))) as file:
        return read_source(file, config.classes, config.test_fraction)


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


def read_source(file: NpzFile, classes: Sequence[str] = (), test_fraction: float = 0.2) -> Source:
    """Read a file in the MedMNIST layout: train and val become the pool, test the global test set.

    Args:
        file: the open file.
        classes: class names in label order; empty for the file's own (array ``classes``, else what the labels are).
        test_fraction: share of the pool set apart where the file has no ``test_images``.

    Raises:
        UserError: as :func:`read_splits`; or train has groups and val has none, or the other way round, or test has
            groups and train has none.
    """
    splits, warnings = read_splits(file, ("train", "val", "test"), classes)
    test = splits.pop("test", None)
    without = [name for name, part in splits.items() if part.groups is None]
    if without and len(without) < len(splits):
        raise UserError(
            f"{file.path}: {without[0]}_groups is missing while another split has groups; give both or neither"
        )
    if without and test is not None and test.groups is not None:
        raise UserError(f"{file.path}: train_groups is missing while test has groups; give both or neither")
    pool = joined(list(splits.values()))
    if test is None:
        source = set_apart_test(pool, test_fraction, str(file.path))
        return dataclasses.replace(source, warnings=warnings)
    if pool.groups is not None and test.groups is None:
        warnings = [*warnings, f"{file.path.name}: {WITHOUT_TEST_GROUPS}"]
    return Source(pool, test, warnings, val=len(splits["val"]) if "val" in splits else 0)


def read_splits(
    file: NpzFile, names: Sequence[str], classes: Sequence[str] = ()
) -> tuple[dict[str, ImageSet], list[str]]:
    """Return the splits ``names`` as they stand in the file, ``train`` and those of the others that it has.

    Beside them stand warnings of what their labels were taken for.

    Raises:
        UserError: a missing array, a wrong shape or dtype, NaN, counts, sizes or labels that do not fit together.
    """
    stored = tuple(classes) or _stored_names(file)
    splits = {name: _read_split(file, name, stored) for name in names if name == "train" or _has_split(file, name)}
    _check_shapes(file, splits)
    values = {name: labels for name, (_, labels, _) in splits.items()}
    known, labels, warnings = classes_of(values, stored, str(file.path))
    groups = groups_of({name: ids for name, (_, _, ids) in splits.items() if ids is not None})
    found = {name: ImageSet(images, labels[name], known, groups.get(name)) for name, (images, _, _) in splits.items()}
    return found, warnings


def _has_split(file: NpzFile, split: str) -> bool:
    return f"{split}_images" in file or f"{split}_labels" in file


def _read_split(file: NpzFile, split: str, classes: Sequence[str]) -> Arrays:
    images = _read_squares(file, f"{split}_images")
    labels, key = _read_values(file, f"{split}_labels", len(images), classes), f"{split}_groups"
    return images, labels, _read_values(file, key, len(images)) if key in file else None


def read_images(file: NpzFile, key: str) -> NDArray[np.uint8]:
    """Return uint8 images ``[N, H, W, 1 or 3]``; raise :class:`UserError` for an array of anything else."""
    (shape, dtype), where = file.header(key), f"{file.path}: {key}"
    _refuse_nan(file, key, "repair them and save as uint8, 0 to 255")
    if dtype != np.uint8:
        raise UserError(f"{where} has dtype {dtype}; save it as uint8, 0 to 255")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
        raise UserError(f"{where} has shape {list(shape)}; save it as [N, S, S] or [N, S, S, 1 or 3]")
    images = file.read(key)
    return images[..., None] if images.ndim == 3 else images


def _read_squares(file: NpzFile, key: str) -> NDArray[np.uint8]:
    images, where = read_images(file, key), f"{file.path}: {key}"
    if images.shape[1] != images.shape[2]:
        raise UserError(
            f"{where} has images of {images.shape[1]} x {images.shape[2]} pixels; crop or pad them to squares"
        )
    if not images.size:
        raise UserError(f"{where} is empty (shape {list(images.shape)}); leave the split out or add images")
    return images


def _read_values(file: NpzFile, key: str, count: int, known: Sequence[str] = ()) -> Values:
    """Return labels or patient ids, one an image: int64 or text ``[N]``; ``known`` are values that are not missing."""
    (shape, dtype), where = file.header(key), f"{file.path}: {key}"
    if dtype.kind not in "biufUS":
        raise UserError(f"{where} has dtype {dtype}; save it as whole numbers (int64) or text")
    if shape not in ((count,), (count, 1)):
        raise UserError(f"{where} has shape {list(shape)} for {count} images; save one value an image, [{count}]")
    values = file.read(key).reshape(count)
    return texts(values, where, known) if dtype.kind in "US" else whole_numbers(values, where)


def _refuse_nan(file: NpzFile, key: str, remedy: str) -> None:
    shape, dtype = file.header(key)
    if not np.issubdtype(dtype, np.floating) or dtype.itemsize * math.prod(shape) > LOOKED_AT:
        return
    if missing := int(np.isnan(file.read(key)).sum()):
        raise UserError(f"{file.path}: {key} holds {missing} NaN values; {remedy}")


def _check_shapes(file: NpzFile, splits: dict[str, Arrays]) -> None:
    expected = splits["train"][0].shape[1:]
    for split, (images, _, _) in splits.items():
        if images.shape[1:] != expected:
            raise UserError(
                f"{file.path}: {split}_images has images of shape {list(images.shape[1:])}, "
                f"train_images of {list(expected)}; save all splits in one size"
            )


def _stored_names(file: NpzFile) -> tuple[str, ...]:
    if "classes" not in file:
        return ()
    shape, dtype = file.header("classes")
    if dtype.kind != "U" or len(shape) != 1:
        raise UserError(f"{file.path}: classes has dtype {dtype} and shape {list(shape)}; save it as text, [K]")
    if shape[0] > MOST_CLASSES or dtype.itemsize > LONGEST_NAME:
        raise UserError(f"{file.path}: classes has {shape[0]} names of {dtype}; at most {MOST_CLASSES} short ones")
    return tuple(same_text(str(name)) for name in file.read("classes"))
