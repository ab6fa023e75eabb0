"""Counts, means and second moments of a site's classes by three Gaussian queries: all that is learned of its images.

A unit, an image or with groups a patient, adds to each query a vector whose L2 norm is at most 1: a patient's is the
mean of its images'. So one unit more or less moves an answer by at most 1, and with noise of standard deviation
``1 / mu`` the answer is mu-GDP (:mod:`fedkr.privacy.accountant`). Whatever is not public, such as where components are
clipped, comes from the answers to earlier queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.privacy.noise import gaussian, symmetric_gaussian

Floats = NDArray[np.float64]
# How the three queries share mu squared, and the parts of each its own length: constants, chosen on public images.
CENTRE, CLASSES, SPREAD = 0.1, 0.4, 0.5
OF_CENTRE = {"count": 0.1, "sum": 0.45, "length": 0.45}
OF_CLASSES = {"count": 0.1, "sum": 0.8, "length": 0.1}
OF_SPREAD = {"pooled": 0.5, "by class": 0.5}
# Components are clipped at so many times their root mean square length.
CLIP = 1.2
# No part of what is left of the spread is below this one.
LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class Moments:
    """What the queries answered.

    Attributes:
        counts: float64 ``[K]``, units of each class, at least 1 and at least their noise.
        count_noise: standard deviation of the noise in a count.
        means: float64 ``[K, D]``.
        mean_variance: float64 ``[K]``: variance of the noise in each component of a mean.
        pooled: float64 ``[D, D]``, sum of the outer products of what is left beside the noisy means.
        by_class: float64 ``[K, D, D]``, the same class by class.
        pooled_noise, by_class_noise: standard deviation of the noise in either.
    """

    counts: Floats
    count_noise: float
    means: Floats
    mean_variance: Floats
    pooled: Floats
    by_class: Floats
    pooled_noise: float
    by_class_noise: float


@dataclass(frozen=True)
class Classes:
    """The second query's answer.

    Attributes:
        counts, count_noise, means, mean_variance: as in :class:`Moments`.
        length: the root mean square length of what is left beside the means.
    """

    counts: Floats
    count_noise: float
    means: Floats
    mean_variance: Floats
    length: float


class Query:
    """One of the queries: its parts, each a sum over units, answered with noise that makes the whole mu-GDP.

    Args:
        mu: of this query; None adds no noise.
        parts: the share of each part in the squared length of a unit's vector.
        seed: what the noise of all parts comes from.
    """

    def __init__(self, mu: float | None, parts: Mapping[str, float], seed: bytes) -> None:
        self.mu, self.parts, self.seed = mu, parts, seed

    def noise_in(self, part: str, limit: float) -> float:
        """Return the standard deviation of the noise in a part to which a unit adds a vector of ``limit`` at most."""
        return 0.0 if self.mu is None else limit / (self.mu * math.sqrt(self.parts[part]))

    def answer(self, part: str, limit: float, total: Floats) -> Floats:
        """Return the sum ``total`` of vectors, each no longer than ``limit``, with noise."""
        return total + self.noise_in(part, limit) * gaussian(self._seed(part), np.shape(total))

    def answer_symmetric(self, part: str, limit: float, total: Floats) -> Floats:
        """Return sums of symmetric matrices ``[M, D, D]``, each of a Frobenius norm up to ``limit``, with noise."""
        return total + self.noise_in(part, limit) * symmetric_gaussian(self._seed(part), len(total), total.shape[1])

    def _seed(self, part: str) -> bytes:
        return self.seed + f"\x1f{part}".encode()


@dataclass(frozen=True)
class Units:
    """A site's images as the queries read them: components ``[N, D]``, one-hot labels ``[N, K]``, weights ``[N]``.

    The weights of a unit's images sum to one.
    """

    values: Floats
    classes: Floats
    weights: Floats

    @staticmethod
    def of(values: Floats, labels: NDArray[np.int64], classes: int, groups: NDArray[np.int64] | None) -> Units:
        """Return components ``[N, D]`` and labels ``[N]`` with the weights that groups ``[N]``, if any, give them."""
        weights = np.ones(len(labels))
        if groups is not None:
            _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
            weights = 1 / sizes[group]
        return Units(values, np.eye(classes)[labels], weights)

    def sum(self, values: Floats) -> Floats:
        """Return the weighted sum over all images of values ``[N, ...]``."""
        return np.tensordot(self.weights, values, axes=1)


def measure(units: Units, longest: float, mu: float | None, seed: bytes) -> Moments:
    """Return the noisy moments of ``units``, whose values are no longer than ``longest``; the whole is mu-GDP.

    ``seed`` is all that the noise depends on; ``mu`` None adds none.
    """

    def query(name: str, share: float, parts: Mapping[str, float]) -> Query:
        return Query(mu and mu * math.sqrt(share), parts, seed + f"\x1f{name}".encode())

    centre, length = ask_centre(units, longest, query("centre", CENTRE, OF_CENTRE))
    moved = Units(units.values - centre, units.classes, units.weights)
    classes = ask_classes(moved, CLIP * length, query("classes", CLASSES, OF_CLASSES))
    left = Units(moved.values - classes.means[units.classes.argmax(axis=1)], units.classes, units.weights)
    spread = query("spread", SPREAD, OF_SPREAD)
    limit = CLIP * classes.length
    pooled, by_class = ask_spread(left, limit, spread)
    noises = (spread.noise_in(part, limit**2) for part in OF_SPREAD)
    means = centre + classes.means
    return Moments(classes.counts, classes.count_noise, means, classes.mean_variance, pooled, by_class, *noises)


def ask_centre(units: Units, longest: float, query: Query) -> tuple[Floats, float]:
    """The first query: return the mean of all images ``[D]`` and the root mean square length beside it."""
    lengths = (units.values**2).sum(axis=1)
    count = max(float(query.answer("count", 1.0, units.weights.sum())), 1.0)
    total = query.answer("sum", longest, units.sum(units.values))
    square = float(query.answer("length", longest**2, units.sum(lengths)))
    # No mean of images is longer than an image.
    centre = clipped(total[None] / count, longest)[0]
    spread = square / count - float((centre**2).sum())
    return centre, math.sqrt(min(max(spread, (LEAST_SPREAD * longest) ** 2), longest**2))


def ask_classes(units: Units, limit: float, query: Query) -> Classes:
    """The second query: count and mean of each class, of components clipped at ``limit``."""
    values, side = clipped(units.values, limit), units.values.shape[1]
    noise = query.noise_in("count", 1.0)
    # The mean of a class without images would else be noise divided by next to nothing.
    counts = np.maximum(query.answer("count", 1.0, units.sum(units.classes)), max(1.0, noise))
    sums = query.answer("sum", limit, (units.classes * units.weights[:, None]).T @ values)
    square = float(query.answer("length", limit**2, units.sum((values**2).sum(axis=1))))
    means, variance = sums / counts[:, None], (query.noise_in("sum", limit) / counts) ** 2
    between = float((counts * ((means**2).sum(axis=1) - side * variance)).sum())
    within = max(square - between, LEAST_SPREAD * max(square, LEAST_SPREAD * limit**2)) / counts.sum()
    # The noise in the means is in what is left beside them as well.
    length = math.sqrt(min(within + side * float(counts @ variance / counts.sum()), (2 * limit) ** 2))
    return Classes(counts, noise, means, variance, length)


def ask_spread(units: Units, limit: float, query: Query) -> tuple[Floats, Floats]:
    """The third query: second moments, pooled ``[D, D]`` and by class ``[K, D, D]``, of values clipped at ``limit``."""
    values = clipped(units.values, limit)
    of_class = [values[rows] * np.sqrt(units.weights[rows, None]) for rows in units.classes.T > 0]
    by_class = np.stack([part.T @ part for part in of_class])
    pooled = query.answer_symmetric("pooled", limit**2, by_class.sum(axis=0, keepdims=True))[0]
    return pooled, query.answer_symmetric("by class", limit**2, by_class)


def clipped(values: Floats, limit: float) -> Floats:
    """Return vectors ``[N, D]``, the longer ones shortened to ``limit``."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values * np.minimum(1.0, limit / np.maximum(lengths, 1e-12))
