"""Minibatches as a pure function of the step: nothing to save, nothing to restore, the same on every backend."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedkr.seeds import numpy_rng


def by_class_power(labels: NDArray[np.int64], power: float) -> NDArray[np.int64]:
    """Return int64 ``[M]``, the examples of int64 ``labels [N]``, those of rare classes several times.

    So classes come about as often as their counts to a power from 0 to 1: 1 leaves all as they are, 0 makes classes
    nearly equal. An example stands there a whole number of times: at 0.5 a class with more than four ninths of the
    commonest's images stays as it is.
    """
    counts = np.bincount(labels)
    times = np.rint((counts.max() / np.maximum(counts, 1)) ** (1 - power)).astype(np.int64)
    return np.repeat(np.arange(len(labels)), times[labels])


class BatchOrder:
    """Endless concatenated permutations of ``count`` examples, cut into full batches.

    Every batch is full, also with fewer examples than a batch holds: batch normalisation never sees one image.
    """

    def __init__(self, count: int, batch: int, *seed: object) -> None:
        self.count, self.batch = count, batch
        # A batch asks for one epoch after the other.
        self._permutation = lru_cache(2)(lambda epoch: numpy_rng(*seed, "order", epoch).permutation(count))

    def epoch(self, step: int) -> int:
        """Return the epoch in which ``step`` starts."""
        return step * self.batch // self.count

    def at(self, step: int) -> NDArray[np.int64]:
        """Return int64 ``[batch]``: the examples of ``step``."""
        positions = range(step * self.batch, (step + 1) * self.batch)
        return np.array([self._permutation(p // self.count)[p % self.count] for p in positions], np.int64)
