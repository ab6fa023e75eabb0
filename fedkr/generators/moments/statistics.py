"""Counts, means and covariances of a site's classes by Gaussian queries: all that is learned of its images.

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

from fedkr.generators.moments.gaussians import Sums, largest_of, root, shrunk, smoothed, told_from_one
from fedkr.privacy.noise import gaussian, symmetric_gaussian

Floats = NDArray[np.float64]
# How the queries share mu squared, and the parts of each its own length: constants, chosen on public images. The last
# share is one query's or, where there are images enough, that of two.
CENTRE, CLASSES, SPREAD = 0.1, 0.4, 0.5
POOLED, BY_CLASS = 0.15, 0.35
OF_CENTRE = {"count": 0.1, "sum": 0.45, "length": 0.45}
OF_CLASSES = {"count": 0.1, "sum": 0.8, "length": 0.1}
OF_SPREAD = {"pooled": 0.5, "by class": 0.5}
OF_POOLED = {"pooled": 1.0}
OF_BY_CLASS = {"by class": 1.0}
# Two queries where noise moves no variance of a class, in units of all classes' own, by more than so many times itself.
MOST_MOVED = 4.0
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
        covariances: float64 ``[K, D, D]``, positive definite.
    """

    counts: Floats
    count_noise: float
    means: Floats
    covariances: Floats


@dataclass(frozen=True)
class Classes:
    """The second query's answer.

    Attributes:
        counts, count_noise, means: as in :class:`Moments`.
        mean_variance: float64 ``[K]``: variance of the noise in each component of a mean.
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


def measure(units: Units, longest: float, mu: float | None, seed: bytes, most_moved: float = MOST_MOVED) -> Moments:
    """Return the noisy moments of ``units``, whose values are no longer than ``longest``; the whole is mu-GDP.

    ``seed`` is all that the noise depends on; ``mu`` None adds none. ``most_moved`` is the bound of
    :func:`told_apart`: 0 asks for all covariances at once, infinity for those of all classes first.
    """

    def query(name: str, share: float, parts: Mapping[str, float]) -> Query:
        return Query(mu and mu * math.sqrt(share), parts, seed + f"\x1f{name}".encode())

    centre, length = ask_centre(units, longest, query("centre", CENTRE, OF_CENTRE))
    moved = Units(units.values - centre, units.classes, units.weights)
    classes = ask_classes(moved, CLIP * length, query("classes", CLASSES, OF_CLASSES))
    left = beside(moved, classes.means)
    if told_apart(classes, units.values.shape[1], mu, most_moved):
        axes = ask_pooled(left, classes, query("pooled", POOLED, OF_POOLED))
        covariances = ask_by_class(whitened(left, axes), axes, classes, query("by class", BY_CLASS, OF_BY_CLASS))
    else:
        covariances = ask_spread(left, classes, query("spread", SPREAD, OF_SPREAD))
    return Moments(classes.counts, classes.count_noise, centre + classes.means, covariances)


def beside(units: Units, means: Floats) -> Units:
    """Return what is left of units beside the means ``[K, D]`` of their classes."""
    return Units(units.values - means[units.classes.argmax(axis=1)], units.classes, units.weights)


def whitened(units: Units, axes: Floats) -> Units:
    """Return units in those of the ``axes [D, D]``."""
    return Units(units.values @ np.linalg.inv(axes).T, units.classes, units.weights)


def told_apart(classes: Classes, side: int, mu: float | None, most_moved: float = MOST_MOVED) -> bool:
    """Whether noise leaves enough of a class's own covariance to ask for it in units of all classes' together.

    That takes a query of its own before it, which pays where a class has many images.
    The noisy counts decide; without noise one query has it all.
    """
    if mu is None:
        return False
    noise = CLIP**2 * side / (mu * math.sqrt(BY_CLASS)) / float(classes.counts.mean())
    return largest_of(noise, side) <= most_moved


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


def ask_spread(units: Units, classes: Classes, query: Query) -> Floats:
    """The last query, of what is left beside the means: return the covariances ``[K, D, D]``."""
    limit = CLIP * classes.length
    sums = _outer(units, limit)
    pooled = query.answer_symmetric("pooled", limit**2, sums.sum(axis=0, keepdims=True))[0]
    by_class = query.answer_symmetric("by class", limit**2, sums)
    noises = [query.noise_in(part, limit**2) for part in OF_SPREAD]
    return shrunk(Sums(pooled, by_class, *noises), classes.counts, classes.mean_variance)


def ask_pooled(units: Units, classes: Classes, query: Query) -> Floats:
    """The third query of four: the covariance of all classes together.

    Return a symmetric matrix ``[D, D]`` whose square is that covariance.
    """
    limit, counts = CLIP * classes.length, classes.counts
    total = query.answer_symmetric("pooled", limit**2, _outer(units, limit).sum(axis=0, keepdims=True))[0]
    mean_noise = float(counts @ classes.mean_variance / counts.sum())
    covariance = total / counts.sum() - np.eye(len(total)) * mean_noise
    return root(smoothed(covariance, query.noise_in("pooled", limit**2) / counts.sum()))


def ask_by_class(units: Units, axes: Floats, classes: Classes, query: Query) -> Floats:
    """The last query of four, of units :func:`whitened` by ``axes [D, D]``: return the covariances ``[K, D, D]``.

    There all directions are alike, so that the same noise hides none more than another, and a class is told by where it
    differs from one. Of images as they are, the noise that hides the largest would drown all others.
    """
    side, scaled = len(axes), np.linalg.inv(axes)
    limit = CLIP * math.sqrt(side)
    sums = query.answer_symmetric("by class", limit**2, _outer(units, limit))
    noise, found = query.noise_in("by class", limit**2), []
    for total, count, mean_noise in zip(sums, classes.counts, classes.mean_variance, strict=True):
        own = total / count - scaled @ scaled.T * mean_noise
        found.append(axes @ told_from_one(own, math.hypot(noise / count, count**-0.5)) @ axes.T)
    return np.stack(found)


def _outer(units: Units, limit: float) -> Floats:
    """Return the sum of the outer products of each class ``[K, D, D]``, of values clipped at ``limit``."""
    values = clipped(units.values, limit)
    of_class = [values[rows] * np.sqrt(units.weights[rows, None]) for rows in units.classes.T > 0]
    return np.stack([part.T @ part for part in of_class])


def clipped(values: Floats, limit: float) -> Floats:
    """Return vectors ``[N, D]``, the longer ones shortened to ``limit``."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values * np.minimum(1.0, limit / np.maximum(lengths, 1e-12))
