"""From noisy second moments to covariances: what is told of them follows from the noise alone, and costs no privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# No direction has less than this part of the mean variance, however little the noise.
LEAST_VARIANCE = 0.01
# The same where variances that noise hides are told together, so that less of it is left.
LEAST_SMOOTHED = 0.001
# Nor has a class less in a direction than this part of what it has in all classes together.
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Sums:
    """Noisy sums of the outer products of what is left beside the means.

    Attributes:
        pooled: float64 ``[D, D]``, of all classes.
        by_class: float64 ``[K, D, D]``, class by class.
        pooled_noise, by_class_noise: standard deviation of the noise in either.
    """

    pooled: Floats
    by_class: Floats
    pooled_noise: float
    by_class_noise: float


def shrunk(sums: Sums, counts: Floats, mean_variance: Floats) -> Floats:
    """Return a covariance of each class, float64 ``[K, D, D]``, of ``counts [K]``.

    The two noisy estimates of the pooled one are weighted by their noise, and each class's own is drawn towards it by
    how little of their difference noise and sampling do not explain (James & Stein 1961; for the form, Ledoit & Wolf
    2004). Directions whose variance the noise hides have that of the noise. ``mean_variance [K]`` is the noise in each
    component of a mean, which is in what is left beside it as well.
    """
    total, identity = counts.sum(), np.eye(len(sums.pooled))
    pooled, noise = _pooled(sums)
    pooled = pooled / total - identity * float(counts @ mean_variance / total)
    noise /= total
    base = floored(pooled, noise)
    found = []
    for k, count in enumerate(counts):
        own = sums.by_class[k] / count - identity * mean_variance[k]
        own_noise = sums.by_class_noise / count
        share = own_share(own, base, own_noise, count)
        mixed = share * own + (1 - share) * base
        found.append(floored(mixed, math.hypot(share * own_noise, (1 - share) * noise)))
    return np.stack(found)


def _pooled(sums: Sums) -> tuple[Floats, float]:
    """Return the sum of the outer products ``[D, D]`` from both of its answers, and the noise's standard deviation."""
    summed, classes = sums.by_class.sum(axis=0), len(sums.by_class)
    variance, other = sums.pooled_noise**2, classes * sums.by_class_noise**2
    if not variance:
        return sums.pooled, 0.0
    weight = other / (variance + other)
    return weight * sums.pooled + (1 - weight) * summed, math.sqrt(variance * other / (variance + other))


def own_share(own: Floats, base: Floats, noise: float, count: float) -> float:
    """Return how much of a class's covariance ``[D, D]`` is its own, 0 to 1, beside the pooled ``base``.

    ``noise`` is the standard deviation of the noise in ``own``, ``count`` the images that it is of.
    """
    side = len(base)
    by_noise = noise**2 * side * (side + 1) / 2
    by_sampling = (np.trace(base) ** 2 + (base**2).sum()) / count
    return max(0.0, 1 - float((by_noise + by_sampling) / max(((own - base) ** 2).sum(), 1e-12)))


def floored(matrix: Floats, noise: float) -> Floats:
    """Return a symmetric matrix ``[D, D]`` whose least eigenvalue is the largest that its noise has by itself."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    least = max(largest_of(noise, len(matrix)), LEAST_VARIANCE * max(float(values.mean()), 1e-9))
    return (vectors * np.maximum(values, least)) @ vectors.T


def smoothed(matrix: Floats, noise: float) -> Floats:
    """Return a noisy covariance ``[D, D]`` with the variances that noise hides replaced by their mean.

    That mean has much less noise than each of them. ``noise`` is the standard deviation of the noise in a direction.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    hidden = values <= largest_of(noise, len(matrix))
    if hidden.any():
        values[hidden] = values[hidden].mean()
    return (vectors * np.maximum(values, LEAST_SMOOTHED * max(float(values.mean()), 1e-9))) @ vectors.T


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
