"""What the data of a study are: one name for all that decides a split or a result, and what differs between two."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.data.images import ImageSet
from fedkr.fingerprint import array_digest

# Hex digits of each part: enough against chance, and whoever made two parts meet would deceive no one else.
DIGITS = 16
OF_A_SET = ("pixels", "labels", "patients")
PARTS = ("classes", *(f"{part} of the {name} set" for name in ("training", "val", "test") for part in OF_A_SET))


def identity_of(pool: ImageSet, test: ImageSet, val: int = 0) -> str:
    """Return 16 hex digits for each of :data:`PARTS`: classes, then pixels, labels and patients of each set.

    The training set is ``pool`` without its last ``val`` images, which are the file's own val set. Whoever guesses at
    the data can try the guess on this name: it stays with those who have them.
    """
    first = len(pool) - val
    sets = (_slice(pool, slice(first)), _slice(pool, slice(first, None)), test)
    return "".join([_digest([np.array(pool.classes)]), *(part for data in sets for part in _of_set(data))])


def what_changed(before: str, now: str) -> list[str]:
    """Return which parts differ between two identities, in words."""
    if before == now:
        return []
    if len(before) != len(now):
        return ["the digest's own form, as of another version of fedkr"]
    starts = range(0, len(now), DIGITS)
    changed = [before[at : at + DIGITS] != now[at : at + DIGITS] for at in starts]
    return [part for part, other in zip(PARTS, changed, strict=True) if other]


def _slice(data: ImageSet, kept: slice) -> ImageSet:
    """Return a part of a set without a copy of its images."""
    groups = None if data.groups is None else data.groups[kept]
    return dataclasses.replace(data, images=data.images[kept], labels=data.labels[kept], groups=groups)


def _of_set(data: ImageSet) -> list[str]:
    # A set without images is the same with patient ids as without.
    patients = [] if data.groups is None or not len(data) else [data.groups]
    arrays = ([data.images], [data.labels], patients)
    return [_digest(part) for part in arrays]


def _digest(arrays: Sequence[NDArray[Any]]) -> str:
    return array_digest(arrays)[:DIGITS]
