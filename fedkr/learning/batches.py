"""Minibatches as a pure function of the step: nothing to save, nothing to restore, the same on every backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.seeds import numpy_rng


class BatchOrder:
    """Endless concatenated permutations of ``count`` examples, cut into full batches.

    Every batch is full, also with fewer examples than a batch holds: batch normalisation never sees one image.
    """

    def __init__(self, count: int, batch: int, *seed: object) -> None:
        self.count, self.batch, self.seed = count, batch, seed
        self._permutations: dict[int, NDArray[np.int64]] = {}

    def epoch(self, step: int) -> int:
        """Return the epoch in which ``step`` starts."""
        return step * self.batch // self.count

    def at(self, step: int) -> NDArray[np.int64]:
        """Return int64 ``[batch]``: the examples of ``step``."""
        start = step * self.batch
        positions = np.arange(start, start + self.batch)
        epochs = positions // self.count
        self._permutations = {e: self._permutation(e) for e in range(int(epochs[0]), int(epochs[-1]) + 1)}
        return np.array(
            [self._permutations[int(e)][p - e * self.count] for e, p in zip(epochs, positions, strict=True)], np.int64
        )

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        known = self._permutations.get(epoch)
        return known if known is not None else numpy_rng(*self.seed, "order", epoch).permutation(self.count)
