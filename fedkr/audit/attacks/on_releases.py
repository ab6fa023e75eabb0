"""Attacks on a released set, without any model: is a private image closer to what was released than it should be?

Images are rows float64 ``[N, d]`` (:mod:`fedkr.data.distances`): pixels, features of a network, or principal components
of either, which the density attacks want, as densities in hundreds of dimensions mean nothing.
Scores are float64 ``[N]``, higher meaning "more like a member".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.data.distances import Floats, Rows, blocks, check_rows, nearest, squared_distances
from fedkr.errors import UserError


@dataclass(frozen=True)
class CopyCheck:
    """Released images that are suspiciously close to a member. Names single images: for the site's own eyes only.

    Attributes:
        threshold: distance at or below which a released image counts as a copy.
        share: of all released images.
        released, members: int64 ``[n]``, indices of the suspects and of the member each is closest to, closest first.
        distances: float64 ``[n]``.
    """

    threshold: float
    share: float
    released: NDArray[np.int64]
    members: NDArray[np.int64]
    distances: Floats


def release_scores(images: Rows, released: Rows, population: Rows) -> dict[str, Floats]:
    """Return the scores float64 ``[N]`` of each of ``config.RELEASE_ATTACKS``.

    - ``distance-pixels``, ``distance-features``: distance to the closest released image (GAN-Leaks, Chen et al. 2020),
      in pixels and among principal components of unit variance;
    - ``monte-carlo``: share of released images nearby (Hilprecht et al. 2019), among those components;
    - ``domias``: density of the release over that of the population (van Breugel et al. 2023), likewise.

    ``images`` are members and non-members; no model trained on the population, which is of the same distribution.
    """
    return {
        "distance-pixels": closest_distance_score(images.pixels, released.pixels),
        "distance-features": closest_distance_score(images.features, released.features),
        "monte-carlo": monte_carlo_score(images.features, released.features),
        "domias": domias_kde_score(images.features, released.features, population.features),
    }


def closest_distance_score(images: Floats, released: Floats) -> Floats:
    """Return minus the distance to the closest released image (Chen et al. 2020, GAN-Leaks, full black-box)."""
    return -nearest(images, released)[1]


def monte_carlo_score(images: Floats, released: Floats) -> Floats:
    """Return the share of released images within epsilon of each image (Hilprecht et al. 2019, equations 2 and 5).

    Epsilon is the median over all challenge images of the distance to the closest released one, so ``images`` must be
    members and non-members together.
    """
    distance = nearest(images, released)[1]
    radius = float(np.median(distance))
    # The same slack on both routes to a distance, so that the image that defines the radius lies within it.
    near = [(squared_distances(block, released) <= radius**2 * (1 + 1e-9) + 1e-12).sum(1) for block in blocks(images)]
    return np.concatenate(near) / len(released)


def domias_kde_score(images: Floats, released: Floats, reference: Floats) -> Floats:
    """Return ``log p_released(x) - log p_reference(x)`` (DOMIAS, van Breugel et al. 2023, equation 2), by Gaussian KDE.

    Each density has one bandwidth a dimension: its own standard deviation times Scott's ``n^(-1 / (d + 4))``. Images
    are ``[N, d]`` with few dimensions (:func:`~fedkr.data.distances.principal_components`); ``reference [P, d]`` is of
    the same distribution, and none of it in the challenge set.
    """
    return log_kde(images, released) - log_kde(images, reference)


def log_kde(images: Floats, sample: Floats) -> Floats:
    """Return ``[N]`` log densities of a product-Gaussian kernel estimate with Scott's bandwidth."""
    check_rows(images, sample)
    if len(sample) < 2:
        raise UserError(f"density: {len(sample)} image cannot give one; at least 2 are needed")
    n, d = sample.shape
    width = np.maximum(sample.std(0, ddof=1), 1e-6) * n ** (-1 / (d + 4))
    densities = [
        scipy.special.logsumexp(-0.5 * squared_distances(block / width, sample / width), axis=1)
        for block in blocks(images)
    ]
    return np.concatenate(densities) - np.log(n) - np.log(width).sum() - d / 2 * np.log(2 * np.pi)


def copy_check(members: Floats, released: Floats, quantile: float = 0.01) -> CopyCheck:
    """Find released images closer to a member than almost all members are to their own nearest neighbour.

    The threshold is the ``quantile`` of the members' distances to their nearest other member. Run it on a holdout in
    place of ``released`` too: its share is what chance gives. Fewer than two members are a :class:`UserError`, as are
    shapes that do not fit.
    """
    if len(members) < 2:
        raise UserError(f"copy check: {len(members)} member has no neighbour to compare with; at least 2 are needed")
    threshold = float(np.quantile(nearest(members, members, itself=False)[1], quantile))
    index, distance = nearest(released, members)
    suspects = np.flatnonzero(distance <= threshold)
    suspects = suspects[np.argsort(distance[suspects], kind="stable")].astype(np.int64)
    return CopyCheck(threshold, len(suspects) / len(released), suspects, index[suspects], distance[suspects])
