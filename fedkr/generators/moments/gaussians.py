"""From noisy moments to a normal distribution for each class: what follows costs no privacy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedkr.generators.moments.statistics import Moments

Floats = NDArray[np.float64]
# No direction has less than this part of the mean variance, however little the noise.
LEAST_VARIANCE = 0.01


def covariances(moments: Moments) -> Floats:
    """Return a covariance of each class, float64 ``[K, D, D]``.

    The two noisy estimates of the pooled one are weighted by their noise, and each class's own is drawn towards it by
    how little of their difference noise and sampling do not explain (James & Stein 1961; for the form, Ledoit & Wolf
    2004). Directions whose variance the noise hides have that of the noise.
    """
    counts, (classes, side) = moments.counts, moments.means.shape
    total, identity = counts.sum(), np.eye(side)
    pooled, noise = _pooled(moments)
    pooled = pooled / total - identity * float(counts @ moments.mean_variance / total)
    noise /= total
    base = floored(pooled, noise)
    found = []
    for k in range(classes):
        own = moments.by_class[k] / counts[k] - identity * moments.mean_variance[k]
        own_noise = moments.by_class_noise / counts[k]
        share = own_share(own, base, own_noise, counts[k])
        mixed = share * own + (1 - share) * base
        found.append(floored(mixed, math.hypot(share * own_noise, (1 - share) * noise)))
    return np.stack(found)


def _pooled(moments: Moments) -> tuple[Floats, float]:
    """Return the sum of the outer products ``[D, D]`` from both of its answers, and the noise's standard deviation."""
    summed, classes = moments.by_class.sum(axis=0), len(moments.counts)
    variance, other = moments.pooled_noise**2, classes * moments.by_class_noise**2
    if not variance:
        return moments.pooled, 0.0
    weight = other / (variance + other)
    return weight * moments.pooled + (1 - weight) * summed, math.sqrt(variance * other / (variance + other))


def own_share(own: Floats, base: Floats, noise: float, count: float) -> float:
    """Return how much of a class's covariance ``[D, D]`` is its own, 0 to 1, beside the pooled ``base``.

    ``noise`` is the standard deviation of the noise in ``own``, ``count`` the images that it is of.
    """
    side = len(base)
    by_noise = noise**2 * side * (side + 1) / 2
    by_sampling = (np.trace(base) ** 2 + (base**2).sum()) / count
    return max(0.0, 1 - float((by_noise + by_sampling) / max(((own - base) ** 2).sum(), 1e-12)))


def floored(matrix: Floats, noise: float) -> Floats:
    """Return a symmetric matrix ``[D, D]`` whose least eigenvalue is the largest that its noise has by itself.

    Symmetric noise of standard deviation ``noise`` in every direction has a spectral norm of about ``noise sqrt(2 D)``.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    least = max(noise * math.sqrt(2 * len(matrix)), LEAST_VARIANCE * max(float(values.mean()), 1e-9))
    return (vectors * np.maximum(values, least)) @ vectors.T
