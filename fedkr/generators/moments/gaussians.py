"""From noisy second moments to covariances: what is told of them follows from the noise alone, and costs no privacy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# No direction has less than this part of the mean variance, however little the noise.
LEAST_VARIANCE = 0.001
# Nor, in a class, less than this part of what it has in all classes together.
LEAST_SHARE = 0.05


def smoothed(matrix: Floats, noise: float) -> Floats:
    """Return a noisy covariance ``[D, D]`` with the variances that noise hides replaced by their mean.

    That mean has much less noise than each of them. ``noise`` is the standard deviation of the noise in a direction.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    hidden = values <= largest_of(noise, len(matrix))
    if hidden.any():
        values[hidden] = values[hidden].mean()
    return (vectors * np.maximum(values, LEAST_VARIANCE * max(float(values.mean()), 1e-9))) @ vectors.T


def told_from_one(matrix: Floats, noise: float) -> Floats:
    """Return a noisy covariance ``[D, D]`` as far as noise lets it differ from the identity.

    Each principal variance is drawn towards one by the most that noise alone would have moved it (the soft threshold of
    Donoho & Johnstone 1994, on eigenvalues); a matrix of noise is the identity.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2 - np.eye(len(matrix)))
    kept = np.sign(values) * np.maximum(np.abs(values) - largest_of(noise, len(matrix)), 0)
    return (vectors * np.maximum(1 + kept, LEAST_SHARE)) @ vectors.T


def largest_of(noise: float, side: int) -> float:
    """Return the spectral norm of symmetric noise ``[side, side]`` of standard deviation ``noise`` in a direction."""
    return noise * math.sqrt(2 * side)


def root(matrix: Floats) -> Floats:
    """Return the symmetric square root of a positive definite matrix ``[D, D]``."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T
