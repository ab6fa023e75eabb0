"""Signals of a release or a model less what they are without the image: how references calibrate the release attacks.

An image that lies close to whatever a generator draws of its class is no member for that; one that lies closer to this
release than to those of other pipelines is. References are what other sites really released, as any server has it, or
what pipelines on random halves of the site's images would have (Carlini et al. 2022, section VI, on distances).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.observed import Floats, Observed

# References that agree to the last digit must not make one signal drown the others.
LEAST_SPREAD = 1e-6


def calibrated(seen: Observed, labels: NDArray[np.int64]) -> Floats:
    """Return float64 ``[N, A]``: each of A signals less what references say of the image.

    References without an image say what its signal is if it was not trained on. Where every image has references of
    both kinds, the middle between their two means is taken off instead: that halves the noise of few references, and
    an image that leaves a mark is judged by half of its own mark. Which images the target trained on is not read.

    Where no reference has any image, as with other sites' releases, these cover each class as densely as it happens
    to be there. So what is left is centred on the median of the class, over members and non-members alike.

    Raises:
        UserError: an image that every reference trained on.
    """
    seen.require(inside=0, outside=1)
    without = seen.mean(~seen.membership)
    if seen.membership.any(0).all():
        return seen.target - (without + seen.mean(seen.membership)) / 2
    scores = seen.target - without
    for label in np.unique(labels):
        own = labels == label
        scores[own] -= np.median(scores[own], axis=0)
    return scores


def fused(seen: Observed, labels: NDArray[np.int64]) -> Floats:
    """Return float64 ``[N]``: the sum of all calibrated signals, each in units of its spread over the references.

    Raises:
        UserError: an image without references of both kinds.
    """
    seen.require(inside=1, outside=1)
    return (calibrated(seen, labels) / spread(seen)).sum(1)


def spread(seen: Observed) -> Floats:
    """Return ``[A]``: the standard deviation of references around the mean of their side, pooled over the images."""
    sides = seen.membership, ~seen.membership
    squares = sum(seen.squares(side).sum(0) for side in sides)
    freedom = sum(np.maximum(side.sum(0) - 1, 0).sum() for side in sides)
    return np.maximum(np.sqrt(squares / max(freedom, 1)), LEAST_SPREAD)
