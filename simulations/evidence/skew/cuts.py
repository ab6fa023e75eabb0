"""Cuts: parts of the development sets that are small, skewed, imbalanced or wrongly labelled."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from fedkr.data import ImageSet
from fedkr.seeds import numpy_rng
from simulations.evidence.long_tail import long_tail


@dataclass(frozen=True)
class Cut:
    """A part of a development set, and how it is dealt.

    Attributes:
        dataset: its name.
        alpha: of Dirichlet.
        images: of the pool that are kept, at random; 0 is all.
        tail: the rarest class has so many times fewer images than the commonest, the others lie between.
        noise: share of labels that are another class's.
    """

    dataset: str
    alpha: float = 0.5
    images: int = 0
    tail: float = 1.0
    noise: float = 0.0

    def of(self, pool: ImageSet, seed: int) -> ImageSet:
        """Return the images that are kept, some with other labels."""
        rng = numpy_rng("cut", seed)
        order = rng.permutation(len(pool))
        if self.tail > 1:
            order = rng.permutation(order[long_tail(pool.labels[order], len(pool.classes), self.tail)])
        kept = pool.subset(np.sort(order[: self.images or None]))
        wrong = np.flatnonzero(rng.random(len(kept)) < self.noise)
        labels, classes = kept.labels.copy(), len(kept.classes)
        labels[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
        return dataclasses.replace(kept, labels=labels)


CUTS = {
    "digits-0.1": Cut("digits", alpha=0.1),
    "digits-60": Cut("digits", images=480),
    "digits-tail": Cut("digits", tail=50),
    "breast-0.5": Cut("breastmnist"),
    "breast-noise": Cut("breastmnist", noise=0.1),
    "pneumonia-0.5": Cut("pneumoniamnist", images=900),
    "pneumonia-0.1": Cut("pneumoniamnist", alpha=0.1, images=1800),
    "blood-0.5": Cut("bloodmnist", images=1000),
    "blood-0.1": Cut("bloodmnist", alpha=0.1, images=1600),
    "blood-tail": Cut("bloodmnist", images=1000, tail=50),
}
