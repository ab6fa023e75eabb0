"""Classifiers that answered the same test images: how sure their figures are, and what tells one from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.learning.evaluation import judged_classes, probabilities_of
from fedkr.resampling import LIMITS, Floats, Groups, blocks, drawn, unit_index
from fedkr.roc import RocCounts

RESAMPLES = 1000
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

    Args:
        logits: float32 ``[N, K]`` by classifier.
        labels: int64 ``[N]``.
        groups: int64 ``[N]`` or None.
        seed: of the resamples.
    """

    def __init__(
        self, logits: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], groups: Groups, seed: int
    ) -> None:
        unit, rng = unit_index(labels, groups), np.random.default_rng(seed)
        # Where no resample moves a figure, so many units would still show nothing of up to this share of all images
        # (Clopper & Pearson 1934).
        self._unseen = 1 - LIMITS[0] ** (1 / (int(unit.max()) + 1))
        models = {name: _Weighted(each, labels) for name, each in logits.items()}
        parts = {name: [each.figures(np.ones((1, len(labels))))] for name, each in models.items()}
        for size in blocks(RESAMPLES, len(labels)):
            weights = drawn(unit, size, rng)
            for name, each in models.items():
                parts[name].append(each.figures(weights))
        # The first of each is that of the images as they are.
        self._values = {name: np.concatenate(each) for name, each in parts.items()}

    def figure(self, name: str, figure: str) -> Interval | None:
        """Return a classifier's figure; None where the test images cannot give it, such as an AUC of one class."""
        found = self._interval(self._of(name, figure))
        return found and Interval(found.value, max(0.0, found.low), min(1.0, found.high))

    def difference(self, one: str, other: str, figure: str) -> Interval | None:
        """Return by how much ``one`` is above ``other``."""
        return self._interval(self._of(one, figure) - self._of(other, figure))

    def _of(self, name: str, figure: str) -> Floats:
        return self._values[name][:, PAIRED_FIGURES.index(figure)]

    def _interval(self, values: Floats) -> Interval | None:
        if np.isnan(values[0]):
            return None
        value, (low, high) = float(values[0]), map(float, np.nanquantile(values[1:], LIMITS))
        return Interval(value, *((low, high) if low < high else (value - self._unseen, value + self._unseen)))


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
