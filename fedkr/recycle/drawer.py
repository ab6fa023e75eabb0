"""The Drawer: a labelled synthetic set, from the classes that are asked for to the images that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedkr.config import RecycleConfig
from fedkr.generators.base import Generator, Knobs, firmer_knobs, may_draw_nearer
from fedkr.learning.job import Job
from fedkr.release import SoftSet

STAGE = "regenerate"
# Class shares of a release go by this power of the class counts.
BALANCES = {"histogram": 1.0, "tempered": 0.5, "balanced": 0.0}
# Knobs that tuning sets beside the generator's own: they act on what is drawn, not on the drawing.
SET_KNOBS = frozenset({"balance", "filter"})
# A class that the teacher hardly recognises must not keep the generator drawing for ever.
REDRAWS = 4

# From uint8 images ``[N, H, W, C]`` and parts of a seed to soft labels ``[N, K]``.
Labeller = Callable[..., NDArray[np.floating]]


@dataclass(frozen=True)
class Drawer:
    """Draws labelled synthetic sets from one checkpoint: classes, images, labels, filter.

    Attributes:
        generator: with the weights of the checkpoint.
        knobs: of the sampling, and of the set: ``balance`` and ``filter`` override those of ``recycle``.
        counts: int64 ``[K]``, the training images of each class, which the classes of a set follow.
        recycle: ``balance``, ``filter`` and ``min_class_count``.
        labeller: labels what was drawn; None labels each image with the class that it was drawn for.
        job: progress, and the seed that every set's own parts are added to.
        doubted: classes that are drawn by the generator's firmer knobs, which draw nearer to the class.
    """

    generator: Generator
    knobs: Knobs
    counts: NDArray[np.int64]
    recycle: RecycleConfig
    labeller: Labeller | None
    job: Job
    doubted: frozenset[int] = frozenset()

    def classes(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return int64 ``[count]``: the class of each image of a set, in an order drawn from ``rng``."""
        balance = self.knobs.get("balance", self.recycle.balance)
        return class_shares(self.counts, count, balance, self.recycle.min_class_count, rng)

    def draw(self, asked: NDArray[np.int64], *seed: object) -> SoftSet:
        """Return an image for each class of ``asked [N]``, with its label; the set's noise comes from ``seed``.

        Where a filter is set (GaFi's, Lampis et al. 2023), what the teacher does not recognise is drawn again: an image
        stays when the first choice of its label is the class that it was drawn for, with more than the threshold.
        What is still rejected after ``REDRAWS`` draws stays as well, so that the set keeps its size and class shares.
        """
        images, soft = self._draw_once(asked, *seed)
        threshold = self.knobs.get("filter", self.recycle.filter)
        for attempt in range(REDRAWS if threshold else 0):
            rejected = np.flatnonzero((soft.argmax(1) != asked) | (soft.max(1) <= threshold))
            if not len(rejected):
                break
            images[rejected], soft[rejected] = self._draw_once(asked[rejected], *seed, "again", attempt)
        self.job.progress.finish(STAGE)
        return SoftSet(images, soft)

    @cached_property
    def firm(self) -> frozenset[int]:
        """The classes that are drawn by firmer knobs: the doubted ones, where the generator's are not these already."""
        return self.doubted if may_draw_nearer(self.generator, own_knobs(self.knobs)) else frozenset()

    def _draw_once(self, asked: NDArray[np.int64], *seed: object) -> SoftSet:
        own, firm, seed = own_knobs(self.knobs), np.isin(asked, list(self.firm)), (*self.job.seed, *seed)
        if not firm.any():
            return self._draw_by(own, asked, *seed)
        parts = [self._draw_by(firmer_knobs(self.generator, own), asked[firm], *seed, "firm")]
        if not firm.all():
            parts.append(self._draw_by(own, asked[~firm], *seed))
        order = np.argsort(np.argsort(~firm, kind="stable"))
        images, soft = SoftSet.union(parts)
        return SoftSet(images[order], soft[order])

    def _draw_by(self, knobs: Knobs, asked: NDArray[np.int64], *seed: object) -> SoftSet:
        images, soft, done = [], [], 0
        for batch in self.generator.sample(asked, knobs, *seed):
            images.append(batch)
            soft.append(self._label(batch, asked[done : done + len(batch)], *seed, done))
            done += len(batch)
            self.job.progress.update(STAGE, done, len(asked), unit="image")
        return SoftSet(np.concatenate(images), np.concatenate(soft))

    def _label(self, images: NDArray[np.uint8], asked: NDArray[np.int64], *seed: object) -> NDArray[np.floating]:
        if self.labeller is None:
            return one_hot(asked, len(self.counts))
        return self.labeller(images, *seed)


def own_knobs(knobs: Knobs) -> Knobs:
    """Return the knobs that are the generator's own."""
    return {name: value for name, value in knobs.items() if name not in SET_KNOBS}


def one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return float32 ``[N, classes]`` of int64 ``labels [N]``."""
    return np.eye(classes, dtype=np.float32)[labels]


def class_shares(
    counts: NDArray[np.int64], count: int, balance: str | float, least: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return int64 ``[count]``: the class of each image of a set, shuffled.

    Classes of fewer than ``least`` images by their ``counts [K]`` are left out. ``balance`` is ``histogram`` (as the
    counts), ``balanced``, ``tempered`` (their square roots), or the power of the counts itself.
    """
    power = BALANCES[balance] if isinstance(balance, str) else balance
    counts = np.where(counts >= least, counts, 0).astype(float)
    weights = counts**power * (counts > 0)
    exact = count * weights / weights.sum()
    whole = np.floor(exact).astype(int)
    # Largest remainders, ties by class number: no luck in who gets the last images.
    for k in np.argsort(-(exact - whole), kind="stable")[: count - whole.sum()]:
        whole[k] += 1
    return rng.permutation(np.repeat(np.arange(len(counts)), whole)).astype(np.int64)
