"""Sets of which the first class keeps all images and the last a few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def long_tail(labels: NDArray[np.int64], classes: int, tail: float) -> NDArray[np.int64]:
    """Return int64 ``[M]``, the examples of int64 ``labels [N]`` that stay, class after class.

    Of each class its first ones stay: all of the first class, a ``tail``-th of the last, and of those between shares
    that fall by the same factor. No class loses its last example.
    """
    kept = []
    for k in range(classes):
        own = np.flatnonzero(labels == k)
        kept.append(own[: max(1, round(tail ** (-k / (classes - 1)) * len(own)))])
    return np.concatenate(kept)
