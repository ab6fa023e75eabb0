"""Near-copies, image by image, before anything leaves: what is far closer to a real image than real images are."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.observed import Bools
from fedkr.audit.attacks.on_releases import (
    EQUAL,
    Floats,
    blocks,
    distances_to_others,
    small_pixels,
    squared_distances,
)
from fedkr.data.images import ImageSet

# Half-way to a real image's third nearest other one: what is nearer repeats that very image. Smooth, typical images lie
# near all others alike and never come that near to one, and pairs of real images do not hide their copies.
SHARE, NEIGHBOURS = 0.5, 3
# Axes along which copies are mirrored back, by what a study counts as real.
MIRRORS = {"none": ((),), "horizontal": ((), (2,)), "both": ((), (2,), (1,), (1, 2))}


class NearCopies:
    """Tells which images are near-copies of ``real`` ones: the rule that keeps memorised images in a site.

    An image is a near-copy of a real one that it is at most half as far from as that one is from the third nearest of
    all others: nearest neighbours against what real images reach. Distances are Euclidean, of pixels (large images
    averaged down). Equal images are not each other's others, nor are two of one patient (``groups``). Mirror images
    count as copies where ``flip`` says that they are as real. A copy that is shifted, recoloured or under much noise is
    not found; the audit's attacks look for those.
    """

    def __init__(self, real: ImageSet, flip: str = "none") -> None:
        self.real, self.mirrors = real, MIRRORS[flip]

    def __call__(self, images: NDArray[np.uint8]) -> Bools:
        """Return bool ``[N]`` for uint8 images ``[N, H, W, C]`` of the real ones' shape."""
        found = np.zeros(len(images), bool)
        for axes in self.mirrors:
            left = np.flatnonzero(~found)
            if len(left):
                found[left] = self._close(small_pixels(np.flip(images[left], axes)))
        return found

    def _close(self, rows: Floats) -> Bools:
        return np.concatenate([(squared_distances(p, self._rows) <= self._squared_radii).any(1) for p in blocks(rows)])

    @cached_property
    def _rows(self) -> Floats:
        return small_pixels(self.real.images)

    @cached_property
    def _squared_radii(self) -> Floats:
        others = distances_to_others(self._rows, self.real.groups, NEIGHBOURS)
        # The furthest of those that there are; 0 where all images are equal.
        return (SHARE * np.where(np.isfinite(others), others, 0.0).max(axis=1)) ** 2 + EQUAL
