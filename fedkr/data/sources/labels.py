"""What the labels and patient ids of a file mean: numbers or text become classes and groups, and nothing is made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.data.listing import same_text
from fedkr.documents import MOST_CLASSES
from fedkr.errors import UserError, few

LONGEST_NAME = 4_000
# What pandas, NumPy, R and databases write for a missing value, once it is text.
MISSING = ("", "nan", "NaN", "<NA>", "NaT", "NA", "None", "NULL")

Values = NDArray[np.int64] | NDArray[np.str_]


def whole_numbers(values: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Return numbers of any type as int64; ``where`` names the array.

    Raises:
        UserError: numbers that are not whole, or larger than int64 holds.
    """
    kept = values
    if np.issubdtype(values.dtype, np.floating):
        if missing := int(np.isnan(values).sum()):
            raise UserError(f"{where} holds {missing} NaN values; give every image a whole number")
        kept = np.rint(values)
        odd = values[kept != values]
        if len(odd):
            raise UserError(f"{where} holds {odd[0]:g}; give every image a whole number")
    if len(kept) and (kept.max() > 2**62 or kept.min() < -(2**62)):
        raise UserError(f"{where} holds {values[np.abs(kept.astype(np.float64)).argmax()]}; number them from 0")
    return kept.astype(np.int64)


def texts(values: NDArray[Any], where: str, known: Sequence[str] = ()) -> NDArray[np.str_]:
    """Return text or bytes as text in one form of Unicode.

    Raises:
        UserError: bytes that are no text, or a missing value that is none of the ``known`` ones.
    """
    if values.dtype.itemsize > LONGEST_NAME:
        raise UserError(f"{where} holds texts of {values.dtype}; give every image a short one")
    found, index = np.unique(values, return_inverse=True)
    try:
        names = [same_text(text.decode() if isinstance(text, bytes) else text) for text in found.tolist()]
    except UnicodeDecodeError:
        raise UserError(f"{where} holds bytes that are not UTF-8; save it as text") from None
    if missing := [name for name in names if name.strip() in MISSING and name not in known]:
        raise UserError(f"{where} holds {missing[0]!r}, a missing value; give every image one, or leave it out")
    return np.array(names, dtype=np.str_)[index]


def classes_of(
    splits: Mapping[str, Values], names: Sequence[str], where: str
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]], list[str]]:
    """Return the classes, each split's labels as indices into them, and warnings.

    Text is a class's name. So are numbers where all of them are among ``names``, as in ``data.classes=['1','2']``;
    numbers from 0 to one less than there are names are the names' places. Without names the classes are the values that
    the splits hold, in order: labels 1 and 2 make two classes of these names, never three.

    Args:
        splits: int64 or text ``[N]`` by the name of the split.
        names: the study's classes; empty for those that the file has.
        where: the file, as messages name it.

    Raises:
        UserError: fewer than two classes or more than :data:`MOST_CLASSES`, negative numbers, text beside numbers, or
            values that are no class.
    """
    kinds = {values.dtype.kind for values in splits.values()}
    if len(kinds) > 1:
        told = ", ".join(f"{name}_labels {'numbers' if v.dtype.kind == 'i' else 'text'}" for name, v in splits.items())
        raise UserError(f"{where}: labels of two kinds ({told}); save all as numbers or all as text")
    found = np.unique(np.concatenate([np.unique(values) for values in splits.values()]))
    _check_values(splits, found, where)
    classes = tuple(names) or tuple(str(value) for value in _in_order(found))
    if len(classes) < 2:
        raise UserError(f"{where}: only one class; name the study's classes, as in data.classes=[healthy,ill]")
    place = {same_text(name): index for index, name in enumerate(classes)}
    by_name = all(str(value) in place for value in found)
    for split, values in splits.items():
        _check_known(split, values, classes, by_name, where)
    if not by_name:
        return classes, {split: values.astype(np.int64) for split, values in splits.items()}, []
    indices = np.array([place[str(value)] for value in found], dtype=np.int64)
    labels = {split: indices[np.searchsorted(found, values)] for split, values in splits.items()}
    plain = kinds == {"U"} or np.array_equal(indices, found)
    # Warnings stand in what is passed on, where no folder belongs.
    return classes, labels, [] if plain else [_mapping(found, indices, Path(where).name)]


def _check_values(splits: Mapping[str, Values], found: Values, where: str) -> None:
    if found.dtype.kind == "i" and found[0] < 0:
        split = next(name for name, values in splits.items() if values.min() < 0)
        raise UserError(f"{where}: {split}_labels holds {found[0]}; labels are not negative, leave such images out")
    # A file of patient ids or of real numbers in the place of labels has more.
    if len(found) > MOST_CLASSES:
        raise UserError(f"{where}: {len(found)} different labels; a study has at most {MOST_CLASSES} classes")


def _check_known(split: str, values: Values, classes: Sequence[str], by_name: bool, where: str) -> None:
    """Raise :class:`UserError` for a label that is neither a name nor the place of one."""
    if by_name:
        return
    text = values.dtype.kind == "U"
    known: Values = np.array([same_text(name) for name in classes]) if text else np.arange(len(classes))
    odd = values[~np.isin(values, known)]
    if not len(odd):
        return
    places = "" if text else f"; labels run from 0 to {len(classes) - 1}"
    value = repr(str(odd[0])) if text else str(odd.max())
    raise UserError(
        f"{where}: {split}_labels holds {value}, but there are {len(classes)} class names ({few(classes)}){places}"
    )


def _in_order(found: Values) -> list[Any]:
    """Return values in order: text that is whole numbers throughout by number, so that 10 comes after 2."""
    values = found.tolist()
    return sorted(values, key=int) if all(str(v).isdecimal() for v in values) else values


def _mapping(found: Values, indices: NDArray[np.int64], where: str) -> str:
    pairs = [f"{value} is class {index}" for value, index in zip(found, indices, strict=True)]
    return f"{where}: labels are no numbers from 0 without a gap, so they are taken as names: {few(pairs)}"


def groups_of(splits: Mapping[str, Values]) -> dict[str, NDArray[np.int64]]:
    """Return each split's patient ids as numbers: equal ids get one number in all splits, other ids another."""
    if all(values.dtype.kind == "i" for values in splits.values()):
        return {split: values.astype(np.int64) for split, values in splits.items()}
    named = {split: values.astype(np.str_) for split, values in splits.items()}
    _, index = np.unique(np.concatenate(list(named.values())), return_inverse=True)
    ends = np.cumsum([len(values) for values in named.values()])[:-1]
    return dict(zip(named, np.split(index.astype(np.int64), ends), strict=True))
