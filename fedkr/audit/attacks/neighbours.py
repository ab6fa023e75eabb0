"""What the released images nearest to a private one say about it: how near they lie, and how they are labelled.

Three signals, each higher for likelier members. None means much by itself, since some images lie close to everything
that is ever drawn: :mod:`fedkr.audit.attacks.calibrated` compares them with what other releases say.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.data.distances import Floats, Rows, log_nearness, nearest_few

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
