"""What a candidate of the search would give away of the images it was trained on: a statistic for choosing, no audit.

The members are the training images, the others those of val; the holdout is not read, so that the audit's attacks stay
untouched by the choice. The signal is that of the audit's release attacks, how near the nearest drawn images lie, less
what is to be expected of an image among so many alike: a regression on how near other *real* images lie, members or
not, and those of its class. That takes off much of what other pipelines' releases take off in the audit, which a search
cannot afford to train.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.data.distances import NEIGHBOURS, Floats, distances_to_others, log_nearness, nearest_few, small_pixels
from fedkr.data.images import ImageSet, joined
from fedkr.roc import area_under_roc

# Of either side, drawn at random: distances between all of them are taken once, and to each candidate's images.
MOST_IMAGES = 2_000


class LeakageGauge:
    """Tells how well a set of drawn images gives away which of a site's images a generator was trained on.

    Args:
        members: the generator's training images.
        others: images of the same site that it was not trained on, val.
        rng: draws of either side as many as are compared.
    """

    def __init__(self, members: ImageSet, others: ImageSet, rng: np.random.Generator) -> None:
        sides = [side.subset(np.sort(rng.permutation(len(side))[:MOST_IMAGES])) for side in (members, others)]
        self.members = len(sides[0])
        real = joined(sides)
        self.pixels = small_pixels(real.images)
        self.expected_by = surroundings(self.pixels, real)

    def __call__(self, drawn: NDArray[np.uint8]) -> float:
        """Return the AUC, 0.5 by guessing, of telling members from others by uint8 images ``[N, H, W, C]``."""
        _, distances = nearest_few(self.pixels, small_pixels(drawn))
        signal = unexpected(log_nearness(distances), self.expected_by)
        return area_under_roc(signal[: self.members], signal[self.members :])


def unexpected(nearness: Floats, expected_by: Floats) -> Floats:
    """Return what a regression (least squares) on ``expected_by [N, 3]`` leaves of float64 ``nearness [N]``."""
    return nearness - expected_by @ np.linalg.lstsq(expected_by, nearness, rcond=None)[0]


def surroundings(pixels: Floats, real: ImageSet) -> Floats:
    """Return float64 ``[N, 3]``: how near the nearest other images lie, those of the same class, and 1.

    Images of one group (patient), and equal ones, are no others of one another. Who is a member is not read.

    Args:
        pixels: float64 ``[N, d]`` of the images.
        real: the N images.
    """
    near = _nearness(pixels, real.groups)
    alike = near.copy()
    for label in np.unique(real.labels):
        own = real.labels == label
        of_class = _nearness(pixels[own], None if real.groups is None else real.groups[own])
        # An image without any other of its class is expected as all images are.
        alike[own] = np.where(np.isfinite(of_class), of_class, near[own])
    return np.stack([near, alike, np.ones(len(pixels))], axis=1)


def _nearness(pixels: Floats, groups: NDArray[np.int64] | None) -> Floats:
    distances = distances_to_others(pixels, groups, NEIGHBOURS)
    known = np.isfinite(distances)
    # The furthest known one in the place of those that there are not; NaN where there is none.
    furthest = np.where(known.any(1), np.where(known, distances, 0.0).max(1), np.nan)
    return log_nearness(np.where(known, distances, furthest[:, None]))
