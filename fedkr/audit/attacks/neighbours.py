"""What the released images nearest to a private one say about it: how near they lie, and how they are labelled.

Three signals, each higher for likelier members. None means much by itself, since some images lie close to everything
that is ever drawn: :mod:`fedkr.audit.attacks.calibrated` compares them with what other releases say.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.on_releases import CHUNK, Floats, Rows, squared_distances
from fedkr.errors import UserError

# Of five, one image that happens to lie close moves the mean little; more reach into where nothing was copied.
NEIGHBOURS = 5
# A quarter of one grey level of one pixel: a copy is no nearer than this, so that its logarithm is finite.
LEAST_DISTANCE = 1e-3
# About what float16 leaves of a soft label near 1.
LEAST_PROBABILITY = 5e-4
SIGNALS = ("pixels", "features", "soft-labels")


def neighbour_signals(
    images: Rows, labels: NDArray[np.int64], released: Rows, soft_labels: NDArray[np.floating]
) -> Floats:
    """Return float64 ``[N, 3]``, the signals of :data:`SIGNALS` on images with ``labels [N]``.

    - ``pixels``, ``features``: minus the mean logarithm of the distances to the nearest released images;
    - ``soft-labels``: the log-odds of the true class, in the mean soft label of those nearest in pixels.

    ``soft_labels`` are ``[n, K]`` of the released images. Memory holds the distances of a block of images at a time.
    """
    index, distances = nearest_few(images.pixels, released.pixels)
    _, among_features = nearest_few(images.features, released.features)
    mean = soft_labels[index, labels[:, None]].astype(np.float64).mean(1)
    likely = mean.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    odds = np.log(likely) - np.log1p(-likely)
    return np.stack([log_nearness(distances), log_nearness(among_features), odds], axis=1)


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
