"""A hospital's own ``.npz`` file in the MedMNIST layout, and the reader that MedMNIST's own files share.

Arrays: ``train_images`` ``[N, S, S]`` or ``[N, S, S, 1 or 3]`` of any type of numbers
(:mod:`fedkr.data.sources.npz_images`) and ``train_labels`` ``[N]`` or ``[N, 1]``, whole numbers or text
(:mod:`fedkr.data.sources.labels`); optional ``val_*`` and ``test_*`` alike; optional ``train_groups``,
``val_groups`` and ``test_groups`` (patients) ``[N]``, whole numbers or text; optional text ``classes`` ``[K]``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedkr.config import DataConfig
from fedkr.data.images import ImageSet, joined
from fedkr.data.listing import same_text
from fedkr.data.registry import Source, set_apart_test
from fedkr.data.sources.labels import LONGEST_NAME, Values, classes_of, groups_of, texts, whole_numbers
from fedkr.data.sources.npz_file import NpzFile
from fedkr.data.sources.npz_images import read_squares
from fedkr.disk import from_home
from fedkr.documents import MOST_CLASSES
from fedkr.errors import UserError

WITHOUT_TEST_GROUPS = "test_groups is missing, so nobody knows if a patient of train_groups is in the test set too"


class Splits(NamedTuple):
    """The splits of a file.

    Attributes:
        sets: by name.
        warnings: one line each for what images and labels were taken for.
        renamed: numbers are not the places of the classes but their names.
    """

    sets: dict[str, ImageSet]
    warnings: list[str]
    renamed: bool


def load(config: DataConfig) -> Source:
    """Return the file at ``config.path``; without ``test_images`` a share is set apart (``config.test_fraction``)."""
    if not config.path:
        raise UserError("data.path='': name the .npz file (train_images, train_labels, ...) to read")
    with NpzFile(from_home(Path(config.path))) as file:
        return read_source(file, config)


def read_source(file: NpzFile, config: DataConfig) -> Source:
    """Read a file in the MedMNIST layout: train and val become the pool, test the global test set.

    Args:
        file: the open file.
        config: class names in label order (empty for the file's own: array ``classes``, else what the labels are), the
            rule for values of more than 8 bits, and the share of the pool set apart where the file has no
            ``test_images``.

    Raises:
        UserError: as :func:`read_splits`; or train has groups and val has none, or the other way round, or test has
            groups and train has none.
    """
    splits, warnings, _ = read_splits(file, ("train", "val", "test"), config)
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
        source = set_apart_test(pool, config.test_fraction, str(file.path))
        return dataclasses.replace(source, warnings=warnings)
    if pool.groups is not None and test.groups is None:
        warnings = [*warnings, f"{file.path.name}: {WITHOUT_TEST_GROUPS}"]
    return Source(pool, test, warnings, val=len(splits["val"]) if "val" in splits else 0)


def read_splits(file: NpzFile, names: Sequence[str], config: DataConfig) -> Splits:
    """Return the splits ``names`` as they stand in the file, ``train`` and those of the others that it has.

    Raises:
        UserError: a missing array, a wrong shape or dtype, NaN, counts, sizes or labels that do not fit together.
    """
    stored = tuple(config.classes) or _stored_names(file)
    present = [name for name in names if name == "train" or _has_split(file, name)]
    images, told = read_squares(file, [f"{name}_images" for name in present], config)
    counts = {name: len(images[f"{name}_images"]) for name in present}
    values = {name: _read_values(file, f"{name}_labels", counts[name], stored) for name in present}
    ids = {name: _read_values(file, f"{name}_groups", counts[name]) for name in present if f"{name}_groups" in file}
    known, labels, renamed = classes_of(values, stored, str(file.path))
    groups = groups_of(ids)
    sets = {name: ImageSet(images[f"{name}_images"], labels[name], known, groups.get(name)) for name in present}
    return Splits(sets, [*told, *renamed], bool(renamed))


def _has_split(file: NpzFile, split: str) -> bool:
    return f"{split}_images" in file or f"{split}_labels" in file


def _read_values(file: NpzFile, key: str, count: int, known: Sequence[str] = ()) -> Values:
    """Return labels or patient ids, one an image: int64 or text ``[N]``; ``known`` are values that are not missing."""
    (shape, dtype), where = file.header(key), f"{file.path}: {key}"
    if dtype.kind not in "biufUS":
        raise UserError(f"{where} has dtype {dtype}; save it as whole numbers (int64) or text")
    if shape not in ((count,), (count, 1)):
        raise UserError(f"{where} has shape {list(shape)} for {count} images; save one value an image, [{count}]")
    values = file.read(key).reshape(count)
    return texts(values, where, known) if dtype.kind in "US" else whole_numbers(values, where)


def _stored_names(file: NpzFile) -> tuple[str, ...]:
    if "classes" not in file:
        return ()
    shape, dtype = file.header("classes")
    if dtype.kind != "U" or len(shape) != 1:
        raise UserError(f"{file.path}: classes has dtype {dtype} and shape {list(shape)}; save it as text, [K]")
    if shape[0] > MOST_CLASSES or dtype.itemsize > LONGEST_NAME:
        raise UserError(f"{file.path}: classes has {shape[0]} names of {dtype}; at most {MOST_CLASSES} short ones")
    return tuple(same_text(str(name)) for name in file.read("classes"))
