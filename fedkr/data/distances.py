"""Images as rows of numbers, and the distances between them: of pixels, and among principal components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
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
# Of five, one image that happens to lie close moves the mean little; more reach into where nothing was copied.
NEIGHBOURS = 5
# A quarter of one grey level of one pixel: a copy is no nearer than this, so that its logarithm is finite.
LEAST_DISTANCE = 1e-3


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
    check_rows(queries, rows)
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
        features: float64 ``[N, c]``, principal components of unit variance: of pixels, or of what a network sees.
    """

    pixels: Floats
    features: Floats


def common_spaces(
    released: NDArray[np.uint8],
    population: NDArray[np.uint8],
    rng: np.random.Generator,
    features_of: Callable[[NDArray[np.uint8]], Floats] = small_pixels,
) -> Callable[[NDArray[np.uint8]], Rows]:
    """Return what brings uint8 images ``[N, H, W, C]`` into the spaces in which all of an audit's releases are met.

    The components are of ``features_of`` images, float64 ``[N, d]``, and are fitted on ``released`` and ``population``
    images, of which ``rng`` picks some: never on those of the challenge.
    """
    fit_on = np.concatenate([released, population])
    project = component_projection(features_of(fit_on[rng.permutation(len(fit_on))[:MOST_FITTED]]), COMPONENTS)

    def rows(images: NDArray[np.uint8]) -> Rows:
        own = small_pixels(images)
        return Rows(own, project(own if features_of is small_pixels else features_of(images)))

    return rows


def blocks(rows: Floats) -> list[Floats]:
    """Return the rows in blocks whose distances to many others fit into memory."""
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def squared_distances(queries: Floats, rows: Floats) -> Floats:
    """Return squared Euclidean distances ``[n, m]``."""
    squared = (queries**2).sum(1)[:, None] + (rows**2).sum(1)[None] - 2 * queries @ rows.T
    return np.maximum(squared, 0)


def log_nearness(distances: Floats) -> Floats:
    """Return ``[N]``: minus the mean logarithm of each row of ``distances [N, k]``."""
    return -np.log(np.maximum(distances, LEAST_DISTANCE)).mean(1)


def nearest_few(queries: Floats, rows: Floats, count: int = NEIGHBOURS) -> tuple[NDArray[np.int64], Floats]:
    """Return the ``count`` rows closest to each query, in ascending order of their indices.

    Indices and Euclidean distances are ``[N, count]``; there are as many as ``rows`` has, where that is fewer.
    """
    if not len(queries) or not len(rows):
        raise UserError("images: an empty set cannot be compared")
    few = min(count, len(rows))
    found, distances = np.empty((len(queries), few), np.int64), np.empty((len(queries), few))
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        closest = np.argpartition(squared_distances(queries[part], rows), few - 1, axis=1)[:, :few]
        # Sums over them then end in the same digit wherever they are taken.
        found[part] = np.sort(closest, axis=1)
        # Taken afresh: squared distances from dot products lose digits near 0.
        distances[part] = np.linalg.norm(queries[part, None] - rows[found[part]], axis=2)
    return found, distances


def check_rows(images: Floats, sample: Floats) -> None:
    """Raise :class:`UserError` unless both are rows of one length, and some."""
    if images.ndim != 2 or sample.ndim != 2 or images.shape[1] != sample.shape[1]:
        raise UserError(
            f"images: expected rows of one length, got shapes {list(images.shape)} and {list(sample.shape)}"
        )
    if not len(images) or not len(sample):
        raise UserError("images: an empty set cannot be compared")
