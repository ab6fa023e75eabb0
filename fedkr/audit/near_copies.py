"""Near-copies, image by image, before anything leaves: what is far closer to a real image than real images are."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.altered_copies import AlteredCopies
from fedkr.audit.attacks.observed import Bools
from fedkr.audit.radii import KEPT, squared_radii
from fedkr.data.distances import EQUAL, Floats, blocks, distances_to_others, small_pixels, squared_distances
from fedkr.data.images import ImageSet


class NearCopies:
    """Tells which images are near-copies of ``real`` ones: the rule that keeps memorised images in a site.

    An image is a near-copy of a real one that it is at most half as far from as that one is from the third nearest of
    all others: nearest neighbours against what real images reach. Distances are Euclidean, of pixels (large images
    averaged down), and of directions (:class:`~fedkr.audit.altered_copies.AlteredCopies`), which contrast, brightness,
    inversion, mirrors, quarter turns and a shift by a pixel leave alone. Equal images are not each other's others, nor
    are two of one patient (``groups``), nor frames of one scene. A copy under much noise, or that is bent, cut, turned
    by other angles, shifted further or mixed with other images, is not found; the audit's attacks look for those.
    """

    def __init__(self, real: ImageSet) -> None:
        self.real, self._altered = real, AlteredCopies(real)

    def __call__(self, images: NDArray[np.uint8]) -> Bools:
        """Return bool ``[N]`` for uint8 images ``[N, H, W, C]`` of the real ones' shape."""
        found = self._close(small_pixels(images))
        left = np.flatnonzero(~found)
        if len(left):
            found[left] = self._altered(images[left])
        return found

    def _close(self, rows: Floats) -> Bools:
        return np.concatenate([(squared_distances(p, self._rows) <= self._squared_radii).any(1) for p in blocks(rows)])

    @cached_property
    def _rows(self) -> Floats:
        return small_pixels(self.real.images)

    @cached_property
    def _squared_radii(self) -> Floats:
        closest = distances_to_others(self._rows, self.real.groups, KEPT)
        return squared_radii(closest, self.real.labels) + EQUAL
