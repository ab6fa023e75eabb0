"""What a synthetic set is made of: its labels, and which drawn images are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedkr.data.images import ImageSet
from fedkr.generators.base import Knobs

# Class shares of a release go by this power of the class counts.
BALANCES = {"histogram": 1.0, "tempered": 0.5, "balanced": 0.0}
# Knobs that tuning sets beside the generator's own: they act on what is drawn, not on the drawing.
SET_KNOBS = frozenset({"balance", "filter"})
# A class that the teacher hardly recognises must not keep the generator drawing for ever.
REDRAWS = 4

SoftSet = tuple[NDArray[np.uint8], NDArray[np.floating]]
Draw = Callable[..., SoftSet]


def sampling_knobs(knobs: Knobs) -> Knobs:
    """Return the knobs that are the generator's own."""
    return {name: value for name, value in knobs.items() if name not in SET_KNOBS}


def release_labels(
    train: ImageSet, count: int, balance: str | float, least: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return int64 ``[count]``: the class of each image of a release, shuffled.

    Args:
        train: the site's training images, whose classes with fewer than ``least`` images are left out.
        count: how many images the release has.
        balance: ``histogram`` (as in ``train``), ``balanced``, ``tempered`` (square roots of the counts), or the
            power of the counts itself.
        least: a class needs at least this many training images.
        rng: for the order.
    """
    power = BALANCES[balance] if isinstance(balance, str) else balance
    counts = np.where(train.class_counts() >= least, train.class_counts(), 0).astype(float)
    weights = counts**power * (counts > 0)
    exact = count * weights / weights.sum()
    whole = np.floor(exact).astype(int)
    # Largest remainders, ties by class number: no luck in who gets the last images.
    for k in np.argsort(-(exact - whole), kind="stable")[: count - whole.sum()]:
        whole[k] += 1
    return rng.permutation(np.repeat(np.arange(len(counts)), whole)).astype(np.int64)


def confident(
    images: NDArray[np.uint8], soft: NDArray[np.floating], labels: NDArray[np.int64], threshold: float, draw: Draw
) -> SoftSet:
    """Draw again what the teacher does not recognise: GaFi's filter (Lampis et al. 2023).

    An image stays when the teacher's first choice is the class that it was drawn for, with more than ``threshold``.
    What is still rejected after ``REDRAWS`` draws stays as well, so that the set keeps its size and class shares.

    Args:
        images: the set, uint8 ``[N, H, W, C]``.
        soft: its soft labels ``[N, K]``.
        labels: ``[N]``, the classes that were asked for.
        threshold: 0 keeps everything.
        draw: called as ``draw(labels, "again", i)``.
    """
    if not threshold:
        return images, soft
    images, soft = images.copy(), soft.copy()
    for attempt in range(REDRAWS):
        rejected = np.flatnonzero((soft.argmax(1) != labels) | (soft.max(1) <= threshold))
        if not len(rejected):
            break
        images[rejected], soft[rejected] = draw(labels[rejected], "again", attempt)
    return images, soft
