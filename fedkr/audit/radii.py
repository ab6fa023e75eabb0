"""How near to a real image is too near: half-way to what lies around it, whatever series it is one of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.data.distances import Floats

# Half-way to a real image's third nearest other one: what is nearer repeats that very image. Smooth, typical images lie
# near all others alike and never come that near to one, and pairs of real images do not hide their copies.
SHARE, NEIGHBOURS = 0.5, 3
# Frames of one scene, which nobody named as one group, are no others: so many at most, and not most of a class.
MOST_FRAMES = 32
KEPT = MOST_FRAMES + NEIGHBOURS


def squared_radii(closest: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return float64 ``[N]``: how near a copy comes at most, squared, 0 where an image has no others.

    Where distances at least double (1 / ``SHARE``) from one neighbour to the next, those before repeat the image, and
    its others begin after the last such gap.

    Args:
        closest: ``[N, KEPT]`` ascending distances of each image to the closest others, infinite where there are fewer.
        labels: int64 ``[N]``.
    """
    most = np.minimum(MOST_FRAMES, (np.bincount(labels)[labels] - 1) // 2)
    steps = closest[:, 1 : MOST_FRAMES + 1] * SHARE >= closest[:, :MOST_FRAMES]
    gaps = steps & np.isfinite(closest[:, 1 : MOST_FRAMES + 1]) & (np.arange(MOST_FRAMES) < most[:, None])
    frames = np.where(gaps, np.arange(1, MOST_FRAMES + 1), 0).max(axis=1)
    others = np.take_along_axis(closest, frames[:, None] + np.arange(NEIGHBOURS), axis=1)
    # The furthest of those that there are; 0 where all images are equal.
    radii: Floats = (SHARE * np.where(np.isfinite(others), others, 0.0).max(axis=1)) ** 2
    return radii
