"""Which classes a site's own teacher doubts: of few images a generator draws mostly other classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedkr.config import RecycleConfig
from fedkr.generators.base import Generator, Knobs, firmer_knobs, may_draw_nearer
from fedkr.learning.job import Job
from fedkr.recycle.drawer import Drawer, Labeller
from fedkr.recycle.quality import recognised

# Images of each class that the teacher is asked about: none of them is in a set.
PILOT = 20


def doubted_classes(
    generator: Generator, counts: NDArray[np.int64], recycle: RecycleConfig, labeller: Labeller, job: Job
) -> frozenset[int]:
    """Return the classes that are to be drawn by the generator's firmer knobs, which draw nearer to the class.

    Those are the ones of which the teacher takes less than ``recycle.doubt`` of the images that the generator draws by
    its own knobs, and not fewer of those that it draws by the firmer ones.

    Args:
        generator: with the weights of its last checkpoint.
        counts: int64 ``[K]``, the training images of each class; those that are not released are not asked about.
        recycle: ``doubt`` and ``min_class_count``.
        labeller: the site's own teacher.
        job: the seed of the images that it is asked about.
    """
    knobs = generator.default_knobs()
    if not recycle.doubt or not may_draw_nearer(generator, knobs):
        return frozenset()
    plain = dataclasses.replace(recycle, filter=0.0)

    def taken(by: Knobs, classes: Sequence[int] | NDArray[np.intp]) -> dict[int, float]:
        """Return of each class the share of images drawn for it that the teacher takes for it."""
        if not len(classes):
            return {}
        asked = np.repeat(np.asarray(classes, np.int64), PILOT)
        drawn = Drawer(generator, by, counts, plain, labeller, job).draw(asked, "doubt")
        shares = recognised(asked, drawn.soft_labels, len(counts))
        return {int(k): share for k in classes if (share := shares[k]) is not None}

    usual = taken(knobs, np.flatnonzero(counts >= recycle.min_class_count))
    doubted = [k for k, share in usual.items() if share < recycle.doubt]
    firmer = firmer_knobs(generator, knobs)
    return frozenset(k for k, share in taken(firmer, doubted).items() if share >= usual[k])
