"""Attacks on a released set, without any model: is a private image closer to what was released than it should be?

Images are rows float64 ``[N, d]``: pixels (:func:`pixels`), features of a network, or principal components of either
(:func:`principal_components`, which the density attacks want, as densities in hundreds of dimensions mean nothing).
Scores are float64 ``[N]``, higher meaning "more like a member".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from fedkr.errors import UserError

Floats = NDArray[np.float64]
CHUNK = 128
# A squared distance from dot products of equal rows is this at most.
EQUAL = 1e-9
# Larger images are averaged down to this side: distances hardly change, and 20,000 of them fit into memory.
LARGEST_SIDE = 32
IMAGES_AT_ONCE = 1_024
# As many as left near-copies with noise, other brightness or small shifts clearest on handwritten digits.
COMPONENTS = 32
# The components are fitted on at most so many images; more change them no further.
MOST_FITTED = 2_000


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


def pixels(images: NDArray[np.uint8]) -> Floats:
    """Return float64 ``[N, H * W * C]`` in 0..1 for uint8 images ``[N, H, W, C]``."""
    return images.reshape(len(images), -1).astype(np.float64) / 255


def principal_components(fit_on: Floats, others: Sequence[Floats], components: int) -> list[Floats]:
    """Project every array of ``others`` on the leading principal components of ``fit_on``, each to unit variance.

    ``fit_on`` must not hold the challenge images (the reference or the released set will do).
    """
    project = component_projection(fit_on, components)
    return [project(rows) for rows in others]


def component_projection(fit_on: Floats, components: int) -> Callable[[Floats], Floats]:
    """Return what projects rows ``[N, d]`` on the leading principal components of ``fit_on``, each to unit variance."""
    mean = fit_on.mean(0)
    _, singular, axes = np.linalg.svd(fit_on - mean, full_matrices=False)
    kept = min(components, int((singular > 1e-9 * max(singular[0], 1e-300)).sum()))
    if not kept:
        raise UserError("principal components: all rows are equal, nothing to project on; give different images")
    scale = axes[:kept].T / (singular[:kept] / np.sqrt(len(fit_on)))
    return lambda rows: (rows - mean) @ scale


def nearest(queries: Floats, rows: Floats, itself: bool = True) -> tuple[NDArray[np.int64], Floats]:
    """Return, for each query, the index of the closest row and its Euclidean distance (exactly 0 for a copy).

    Where the queries are the rows, none is its own neighbour without ``itself``.
    """
    _check(queries, rows)
    parts = []
    for start in range(0, len(queries), CHUNK):
        squared = squared_distances(queries[start : start + CHUNK], rows)
        if not itself:
            np.fill_diagonal(squared[:, start:], np.inf)
        parts.append(squared.argmin(1))
    found = np.concatenate(parts).astype(np.int64)
    # The squared distances above come from dot products and lose digits near 0; the winner's is taken afresh.
    return found, np.linalg.norm(queries - rows[found], axis=1)


def distances_to_others(rows: Floats, groups: NDArray[np.int64] | None, count: int) -> Floats:
    """Return float64 ``[N, count]``: each row's distances to the closest ones that differ, ascending.

    With ``groups [N]`` only rows of other groups count. Infinite where there are fewer.
    """
    found = np.full((len(rows), count), np.inf)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        squared = squared_distances(rows[part], rows)
        squared[squared <= EQUAL] = np.inf
        if groups is not None:
            squared[groups[part, None] == groups[None]] = np.inf
        closest = np.sort(np.partition(squared, min(count, len(rows)) - 1, axis=1)[:, :count], axis=1)
        found[part, : closest.shape[1]] = np.sqrt(closest)
    return found


def small_pixels(images: NDArray[np.uint8]) -> Floats:
    """Return float64 ``[N, d]`` in 0..1: pixels, averaged over blocks where a side is longer than ``LARGEST_SIDE``."""
    height, width = (min(side, LARGEST_SIDE) for side in images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return pixels(images)
    rows = np.empty((len(images), height * width * images.shape[3]))
    for start in range(0, len(images), IMAGES_AT_ONCE):
        part = torch.from_numpy(np.ascontiguousarray(images[start : start + IMAGES_AT_ONCE])).movedim(-1, 1)
        small = torch.nn.functional.adaptive_avg_pool2d(part.double() / 255, (height, width))
        rows[start : start + IMAGES_AT_ONCE] = small.flatten(1).numpy()
    return rows


class Rows(NamedTuple):
    """Images as rows of two spaces.

    Attributes:
        pixels: float64 ``[N, d]``, in 0..1.
        features: float64 ``[N, c]``, principal components of unit variance.
    """

    pixels: Floats
    features: Floats


def common_spaces(
    released: NDArray[np.uint8], population: NDArray[np.uint8], rng: np.random.Generator
) -> Callable[[NDArray[np.uint8]], Rows]:
    """Return what brings uint8 images ``[N, H, W, C]`` into the spaces in which all of an audit's releases are met.

    The components are fitted on ``released`` and ``population`` images, of which ``rng`` picks some: never on those of
    the challenge.
    """
    fit_on = np.concatenate([small_pixels(released), small_pixels(population)])
    project = component_projection(fit_on[rng.permutation(len(fit_on))[:MOST_FITTED]], COMPONENTS)

    def rows(images: NDArray[np.uint8]) -> Rows:
        own = small_pixels(images)
        return Rows(own, project(own))

    return rows


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
    are ``[N, d]`` with few dimensions (see :func:`principal_components`); ``reference [P, d]`` is of the same
    distribution, and none of it in the challenge set.
    """
    return log_kde(images, released) - log_kde(images, reference)


def log_kde(images: Floats, sample: Floats) -> Floats:
    """Return ``[N]`` log densities of a product-Gaussian kernel estimate with Scott's bandwidth."""
    _check(images, sample)
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


def blocks(rows: Floats) -> list[Floats]:
    """Return the rows in blocks whose distances to many others fit into memory."""
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def squared_distances(queries: Floats, rows: Floats) -> Floats:
    """Return squared Euclidean distances ``[n, m]``."""
    squared = (queries**2).sum(1)[:, None] + (rows**2).sum(1)[None] - 2 * queries @ rows.T
    return np.maximum(squared, 0)


def _check(images: Floats, sample: Floats) -> None:
    if images.ndim != 2 or sample.ndim != 2 or images.shape[1] != sample.shape[1]:
        raise UserError(
            f"images: expected rows of one length, got shapes {list(images.shape)} and {list(sample.shape)}"
        )
    if not len(images) or not len(sample):
        raise UserError("images: an empty set cannot be compared")
