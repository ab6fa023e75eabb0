"""The challenge set: the images that an attack has to tell apart, members (trained on) and non-members (held out)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.data.imageset import ImageSet
from fedkr.errors import UserError


@dataclass(frozen=True)
class Challenge:
    """Members, non-members, and how many images of both sides were removed because the other side has the same."""

    members: ImageSet
    nonmembers: ImageSet
    duplicates: int


def build_challenge(train: ImageSet, holdout: ImageSet) -> Challenge:
    """Return the challenge set of a site: its training split against its holdout, without exact duplicates.

    An image whose bytes occur on both sides is a member and a non-member at once, so all its copies are removed
    (whatever their labels) and counted.

    Raises:
        UserError: a group (patient) on both sides, or a side with no image left.
    """
    if train.groups is not None and holdout.groups is not None:
        shared = np.intersect1d(train.groups, holdout.groups)
        if len(shared):
            raise UserError(
                f"audit: group {shared[0]} has images both in train and in holdout ({len(shared)} such groups); "
                "split by whole groups"
            )
    members, nonmembers = _digests(train.images), _digests(holdout.images)
    both = set(members) & set(nonmembers)
    kept = [np.flatnonzero([digest not in both for digest in side]) for side in (members, nonmembers)]
    for name, indices in zip(("train", "holdout"), kept, strict=True):
        if not len(indices):
            raise UserError(f"audit: the {name} split has no image that the other lacks; give the site more images")
    duplicates = len(members) + len(nonmembers) - len(kept[0]) - len(kept[1])
    return Challenge(train.subset(kept[0]), holdout.subset(kept[1]), duplicates)


def _digests(images: NDArray[np.uint8]) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images]
