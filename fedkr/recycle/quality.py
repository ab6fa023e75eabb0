"""How good a release is, by what needs no label of a person: for the site to know before it sends it.

Images are compared as the site's teacher sees them, by what its last layer is given (features).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.data.distances import Floats, distances_to_others, squared_distances

# Of either side, drawn at random.
MOST_IMAGES = 1_000
# Between halves of the real images; below it they are all alike.
LEAST_DISTANCE = 1e-9
# Of a half of the real images; fewer have no Frechet distance.
LEAST_IMAGES = 20
# An image's surroundings reach to the third nearest (Kynkaanniemi et al. 2019).
NEIGHBOURS = 3
# Where the teacher takes fewer of a class' images for it, they teach another one.
LEAST_RECOGNISED = 0.5
# Of a class; the share of fewer is luck.
LEAST_OF_CLASS = 5


@dataclass(frozen=True)
class Quality:
    """What is known of a release's images.

    Attributes:
        frechet: Frechet distance (Heusel et al. 2017) to the real training images, as a multiple of the one between two
            halves of these: 1 is as near as real images are to each other. None where there are too few, or all alike.
        precision: share of released images that lie among real ones (Kynkaanniemi et al. 2019): low where they look
            like none.
        recall: share of real images that lie among released ones: low where much is never drawn. Both are None where no
            image has a neighbour to measure by.
        recognised: of each class, the share of the images drawn for it that the teacher takes for it; None for a class
            of few.
    """

    frechet: float | None
    precision: float | None
    recall: float | None
    recognised: tuple[float | None, ...]

    def as_row(self) -> dict[str, Any]:
        """Return the figures as a manifest has them."""
        figures = {"frechet": self.frechet, "precision": self.precision, "recall": self.recall}
        known = {name: figure for name, figure in figures.items() if figure is not None}
        return known | {"recognised": list(self.recognised)}


def poor(quality: Mapping[str, Any], classes: Sequence[str], untried: Sequence[str] = ()) -> list[str]:
    """Return why a release is poor, a line each, from what :meth:`fedkr.recycle.pipeline.SitePipeline.quality` has.

    ``untried`` are options that may draw rare classes better, which the study does not have.
    """
    lines, real = [], quality.get("real", {})
    if real.get("clear"):
        lines.append(
            f"this release teaches less than your own images: students of it score {real['score'] - real['less']:.2f} "
            f"on val, those of your images {real['score']:.2f}; raise generator.steps, add images, or take "
            "part in a study that shares no release alone (fedkr-dda, or weights where your policy allows them)"
        )
    shares = zip(classes, quality.get("recognised", ()), strict=False)
    unseen = [name for name, share in shares if share is not None and share < LEAST_RECOGNISED]
    if unseen:
        options = " or ".join(untried)
        better = f"where they are few, {options} may draw them better, and give more of them away; " if untried else ""
        lines.append(
            f"of the images drawn for {', '.join(map(repr, unseen[:5]))} your teacher takes fewer than half for it: "
            f"add images of them; {better}left out (recycle.min_class_count), they are learned only "
            "from other sites that have them"
        )
    return lines


def likeness(
    real: Floats, groups: NDArray[np.int64] | None, drawn: Floats, rng: np.random.Generator
) -> tuple[float | None, float | None, float | None]:
    """Return Frechet distance, precision and recall of :class:`Quality`, of features ``[N, d]`` and ``[M, d]``.

    Images of one group (patient), of int ``groups [N]``, are in one half, and no neighbours of one another.
    """
    own = np.arange(len(real)) if groups is None else groups
    precision = _share_within(drawn, real, distances_to_others(real, groups, NEIGHBOURS)[:, -1])
    recall = _share_within(real, drawn, distances_to_others(drawn, None, NEIGHBOURS)[:, -1])
    units = rng.permutation(np.unique(own))
    inside = np.isin(own, units[: len(units) // 2])
    halves = [rng.permutation(half) for half in (real[inside], real[~inside])]
    # Of few images the distance is too large, for real ones as for drawn ones as long as they are as many.
    count = min(*map(len, halves), len(drawn))
    if count < LEAST_IMAGES:
        return None, precision, recall
    one, other, some = (rows[:count] for rows in (*halves, rng.permutation(drawn)))
    among_real = frechet_distance(one, other)
    to_drawn = (frechet_distance(one, some) + frechet_distance(other, some)) / 2
    return to_drawn / among_real if among_real > LEAST_DISTANCE else None, precision, recall


def frechet_distance(one: Floats, other: Floats) -> float:
    """Return the squared Frechet distance of two normal distributions with mean and covariance of rows ``[N, d]``."""
    means = one.mean(0), other.mean(0)
    first, second = (np.cov(rows, rowvar=False).reshape(rows.shape[1], -1) for rows in (one, other))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return max(0.0, float(((means[0] - means[1]) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * shared))


def recognised(asked: NDArray[np.int64], soft: NDArray[np.floating], classes: int) -> tuple[float | None, ...]:
    """Return of each class the share of its images, int ``asked [N]``, whose soft labels ``[N, K]`` have it first."""
    seen = soft.argmax(1) == asked
    counts = np.bincount(asked, minlength=classes)
    return tuple(float(seen[asked == k].mean()) if counts[k] >= LEAST_OF_CLASS else None for k in range(classes))


def _share_within(rows: Floats, others: Floats, radii: Floats) -> float | None:
    known = np.isfinite(radii)
    if not known.any():
        return None
    return float((squared_distances(rows, others[known]) <= radii[None, known] ** 2).any(1).mean())
