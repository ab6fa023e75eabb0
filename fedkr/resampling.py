"""Bootstrap resamples as weights: how often each image was drawn, or each patient with all images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.errors import UserError

Floats = NDArray[np.float64]
# The group (patient) of each example.
Groups = NDArray[np.int64] | None
# Weights are drawn in blocks of at most this many numbers, which keeps the memory below 100 MB.
BLOCK = 1_000_000
LIMITS = (0.025, 0.975)


def unit_index(scores: NDArray[Any], groups: Groups) -> NDArray[np.intp]:
    """Return ``[n]``: the resampling unit of each score, its group (patient) or itself."""
    if groups is None:
        return np.arange(len(scores))
    if groups.shape != scores.shape:
        raise UserError(f"groups: expected {len(scores)}, one a score, got shape {list(groups.shape)}")
    return np.unique(groups, return_inverse=True)[1]


def blocks(count: int, examples: int) -> Iterator[int]:
    """Yield how many resamples of ``examples`` to draw at once, ``count`` in all."""
    most = max(1, BLOCK // examples)
    for start in range(0, count, most):
        yield min(most, count - start)


def drawn(unit: NDArray[np.intp], size: int, rng: np.random.Generator) -> Floats:
    """Return ``[size, n]``: how often each of ``n`` examples was drawn, whose units are ``unit [n]``."""
    count = int(unit.max()) + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=size)[:, unit].astype(np.float64)
