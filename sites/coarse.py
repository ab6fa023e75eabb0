"""Figures as they leave a hospital: so coarse that no single image moves one by more than a step.

A rate ``r`` leaves as ``floor(r / step + offset) * step`` (randomised rounding, Raghavan & Thompson 1987). The offset
in [0, 1) is the same each time a model is asked about, and known to the site alone: who makes models so that one image
decides on which side of a boundary they fall does not know where the boundaries are.

:func:`robust_rates` bends what a single image could move far, so that replacing an image and its label moves no rate
by more than one step. Then what leaves moves by one step at most, and for an image in a large class with a probability
of 1 in ``STEP_IMAGES``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedkr.learning.evaluation import Utility
from fedkr.roc import area_under_roc

# How many images a step of the accuracy is worth at least.
STEP_IMAGES = 5
# A class in which an image moves recall and AUC by more than this part of a step counts less.
CLASS_SHARE = 0.6
# Cross entropy of one image in nats; a step of a loss is this many times that of a rate.
LARGEST_LOSS = 5.0
LARGEST_LOGIT = 1e4
SECONDS_STEP = 60.0
DIGITS = 9


@dataclass(frozen=True)
class Grid:
    """The values that a rate can leave as: multiples of ``step``, shifted by ``offset`` steps before rounding."""

    step: float
    offset: float = 0.5

    def rate(self, value: float) -> float:
        """Return a rate in 0..1 as it may leave."""
        return min(1.0, self._rounded(value, self.step))

    def difference(self, value: float) -> float:
        """Return a difference of two rates as it may leave."""
        return max(-1.0, min(1.0, self._rounded(value, self.step)))

    def loss(self, value: float) -> float:
        """Return a mean loss in 0..``LARGEST_LOSS`` as it may leave; one that is no number counts as the largest."""
        value = LARGEST_LOSS if math.isnan(value) else min(max(value, 0.0), LARGEST_LOSS)
        return min(LARGEST_LOSS, self._rounded(value, self.step * LARGEST_LOSS))

    def _rounded(self, value: float, step: float) -> float:
        return round(math.floor(value / step + self.offset + 10.0**-DIGITS) * step, DIGITS)


def step_for(count: int, rate_step: float) -> float:
    """Return the step for rates on so many images: a multiple of ``rate_step`` that is worth ``STEP_IMAGES`` images."""
    return round(math.ceil(STEP_IMAGES / (count * rate_step) - 10.0**-DIGITS) * rate_step, DIGITS)


def coarse_utility(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: int, grid: Grid) -> Utility:
    """Return the utility of float ``logits [N, K]`` on int ``labels [N]`` as it may leave, without its counts."""
    rates = robust_rates(logits, labels, classes, grid.step)
    loss = grid.loss(rates.pop("loss"))
    return Utility(**{name: grid.rate(rate) for name, rate in rates.items()}, loss=loss, confusion=[], count=0)


def robust_rates(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: int, step: float) -> dict[str, float]:
    """Return accuracy, balanced accuracy, AUC and loss, none of which one image of ``N`` moves by more than ``step``.

    A class of fewer than ``1 / (CLASS_SHARE * step)`` images counts in part, as its size is to that number: the rest of
    its recall is the accuracy over all classes, and the rest of its AUC that of all pairs of a true and a false class
    (micro average). The loss of one image is at most ``LARGEST_LOSS``. Logits that are no finite numbers count as 0, so
    that whether an answer comes depends on no image.
    """
    probabilities = torch.from_numpy(finite(logits).astype(np.float64)).softmax(dim=1).numpy()
    right = probabilities.argmax(axis=1) == labels
    least = math.ceil(1 / (CLASS_SHARE * step))
    truth = probabilities[np.arange(len(labels)), labels]
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": _balanced(right, labels, classes, least),
        "auc": _auc(probabilities, labels, least),
        "loss": float(np.minimum(-np.log(np.clip(truth, 1e-12, None)), LARGEST_LOSS).mean()),
    }


def _balanced(right: NDArray[np.bool_], labels: NDArray[np.int64], classes: int, least: int) -> float:
    totals, hits = (np.bincount(part, minlength=classes) for part in (labels, labels[right]))
    missing = 1 - np.minimum(totals / least, 1)
    return float((hits / np.maximum(totals, least) + missing * right.mean()).mean())


def _auc(probabilities: NDArray[np.float64], labels: NDArray[np.int64], least: int) -> float:
    if probabilities.shape[1] < 2:
        return 0.5
    true = np.eye(probabilities.shape[1], dtype=bool)[labels]
    micro = area_under_roc(probabilities[true], probabilities[~true])
    judged = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = []
    for label in judged:
        positive = labels == label
        part = min(1.0, positive.sum() / least, (~positive).sum() / least)
        area = area_under_roc(probabilities[positive, label], probabilities[~positive, label]) if part else 0.0
        areas.append(part * area + (1 - part) * micro)
    return float(np.mean(areas))


def finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits without NaN, which become 0, and infinity."""
    known = np.nan_to_num(logits, nan=0.0, posinf=LARGEST_LOGIT, neginf=-LARGEST_LOGIT)
    return known.clip(-LARGEST_LOGIT, LARGEST_LOGIT)


def coarse_p_value(p_value: float) -> float:
    """Return a p-value in 0..1, rounded up to 1, 2 or 5 times a power of ten: the test rejects no more often for it."""
    if p_value <= 0.0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(p_value))
    leading = next(digit for digit in (1, 2, 5, 10) if digit * power >= p_value * (1 - 10.0**-DIGITS))
    return min(1.0, float(f"{leading * power:.1g}"))


def coarse_seconds(seconds: float) -> float:
    """Return a time rounded up, so that it tells how long a job is and not how many images it has."""
    return math.ceil(seconds / SECONDS_STEP) * SECONDS_STEP
