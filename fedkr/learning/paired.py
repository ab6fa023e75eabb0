"""Classifiers that answered the same test images: how sure their figures are, and what tells one from another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.learning.evaluation import judged_classes, probabilities_of
from fedkr.resampling import LIMITS, Floats, Groups, blocks, drawn, unit_index
from fedkr.roc import RocCounts
from fedkr.seeds import numpy_rng

RESAMPLES = 1000
LEAST_UNITS = 10
PAIRED_FIGURES = ("accuracy", "balanced_accuracy", "auc")


@dataclass(frozen=True)
class Interval:
    """A figure, or a difference of two, with the limits of its 95 % interval."""

    value: float
    low: float
    high: float


class PairedUtility:
    """Figures of several classifiers (:class:`~fedkr.learning.evaluation.Utility`) under the same resamples.

    Each resample holds the same images for all, so that what is hard about an image for all of them cancels out of
    their differences: a paired bootstrap with percentile intervals, of images or, where they have groups, of patients.
    It says how other test images would move the figures, and nothing of other seeds.

    A resample shows nothing that the images do not: where all of a class are right, so many units would still hide a
    share that is wrong (Clopper & Pearson 1934), by which the limits are wider. With fewer than :data:`LEAST_UNITS`
    units, of a class where the figure is a mean over classes, there is no interval.

    Args:
        logits: float32 ``[N, K]`` by classifier.
        labels: int64 ``[N]``.
        groups: int64 ``[N]`` or None.
        seed: of the resamples.
    """

    def __init__(
        self, logits: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], groups: Groups, seed: int
    ) -> None:
        self._unit, self._labels = unit_index(labels, groups), labels
        self._classes = [labels == k for k in np.unique(labels)]
        rng = numpy_rng(seed, "paired utility")
        self._models = {name: _Weighted(each, labels) for name, each in logits.items()}
        parts = {name: [each.figures(np.ones((1, len(labels))))] for name, each in self._models.items()}
        for size in blocks(RESAMPLES, len(labels)):
            weights = drawn(self._unit, size, rng)
            for name, each in self._models.items():
                parts[name].append(each.figures(weights))
        # The first of each is that of the images as they are.
        self._values = {name: np.concatenate(each) for name, each in parts.items()}

    def figure(self, name: str, figure: str) -> Interval | None:
        """Return a classifier's figure; None where the test images cannot give it, or too few an interval."""
        right = self._models[name].right
        alike = [bool(right[own].min() == right[own].max()) for own in self._classes]
        found = self._interval(figure, self._of(name, figure), alike)
        return found and Interval(found.value, max(0.0, found.low), min(1.0, found.high))

    def difference(self, one: str, other: str, figure: str) -> Interval | None:
        """Return by how much ``one`` is above ``other``.

        An accuracy's interval excludes 0 only where the exact sign test over units rejects at 5 %, too (McNemar 1947).
        """
        apart = self._models[one].right.astype(int) - self._models[other].right
        values = self._of(one, figure) - self._of(other, figure)
        found = self._interval(figure, values, [not apart[own].any() for own in self._classes])
        if found is None or figure != "accuracy":
            return found
        signs = np.sign(np.bincount(self._unit, weights=apart))
        differing = int(np.count_nonzero(signs))
        if differing and scipy.stats.binomtest(int((signs > 0).sum()), differing).pvalue < 2 * LIMITS[0]:
            return found
        return Interval(found.value, min(found.low, 0.0), max(found.high, 0.0))

    def _of(self, name: str, figure: str) -> Floats:
        return self._values[name][:, PAIRED_FIGURES.index(figure)]

    def _interval(self, figure: str, values: Floats, alike: list[bool]) -> Interval | None:
        """Return the interval of resampled ``values``; ``alike`` says of which classes no image moves them."""
        all_units = len(np.unique(self._unit))
        units = [all_units] if figure == "accuracy" else [len(np.unique(self._unit[own])) for own in self._classes]
        if np.isnan(values[0]) or min(units) < LEAST_UNITS:
            return None
        value, (low, high) = float(values[0]), map(float, np.nanquantile(values[1:], LIMITS))
        still = alike if figure == "balanced_accuracy" else [low == high] * len(units)
        hidden = [1 - LIMITS[0] ** (1 / count) for count, unmoved in zip(units, still, strict=True) if unmoved]
        slack = math.hypot(*hidden) / len(units)
        return Interval(value, value - math.hypot(value - low, slack), value + math.hypot(high - value, slack))


class _Weighted:
    """One classifier's answers, of which any reweighting gives the figures without predicting again."""

    def __init__(self, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        probabilities = probabilities_of(logits)
        self.is_of = np.eye(probabilities.shape[1])[labels]
        self.right = probabilities.argmax(axis=1) == labels
        self.judged = judged_classes(labels, probabilities.shape[1])
        self.own = [labels == k for k in self.judged]
        self.rocs = [
            RocCounts(probabilities[own, k], probabilities[~own, k])
            for k, own in zip(self.judged, self.own, strict=True)
        ]

    def figures(self, weights: Floats) -> Floats:
        """Return ``[B, 3]``, :data:`PAIRED_FIGURES` under weights ``[B, N]``; NaN for what they cannot give."""
        accuracy = weights @ self.right / weights.sum(axis=1)
        # Zero by zero: a resample without an image of a class, which is then no part of its means.
        with np.errstate(invalid="ignore"):
            recalls = weights @ (self.is_of * self.right[:, None]) / (weights @ self.is_of)
            areas = [roc.auc(weights[:, own], weights[:, ~own]) for roc, own in zip(self.rocs, self.own, strict=True)]
        return np.stack(
            [accuracy, _mean_of_known(recalls.T), _mean_of_known(np.array(areas).reshape(-1, len(weights)))], axis=1
        )


def _mean_of_known(parts: Floats) -> Floats:
    """Return ``[B]``, the mean over the first axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(parts)
    with np.errstate(invalid="ignore"):
        return np.where(known, parts, 0).sum(axis=0) / known.sum(axis=0)
