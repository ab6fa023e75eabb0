"""What ways of drawing give away of the images that sites trained on.

``python -m simulations.evidence.skew.leakage OUT.json data.root=DIR seeds=3,4 cuts=blood-tail [ways=five,doubt+five]
[generator=edm] [budget=standard]``. Members are a site's training images, non-members its holdout. Three attacks:
``nearest``, by the distance to the nearest image that the site drew; ``calibrated``, by how much nearer that is than
what the other sites drew, in the mean; ``student``, by how sure the students of all sites are of the image's class.
Each way stands beside the first one on the same images: of all classes, and of those that one of the ways draws nearer
at the site.

A member is compared with the non-members of its own class at its own site alone: of a class with few images the holdout
has fewer, so that classes would else tell members. Intervals resample these classes of sites, whole; generators,
teachers and students are trained once, and of one dataset several seeds deal the same images.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.lira import logit_scaled_confidence
from fedkr.audit.statistics.membership import with_limits
from fedkr.data import ImageSet
from fedkr.data.distances import log_nearness, nearest, small_pixels
from fedkr.data.images import joined
from fedkr.errors import UserError
from fedkr.resampling import LIMITS, drawn
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact
from server.targets import predict
from simulations.evidence.skew.federation import STAND_IN, Federation, Site, study_of
from simulations.evidence.skew.labels import LABELS
from simulations.evidence.skew.rows import Request, Row
from simulations.evidence.skew.ways import WAYS, Draw
from simulations.exits import guarded

Floats = NDArray[np.float64]
ALL, NEARER = "all", "drawn nearer"
RESAMPLES = 2000


@dataclass(frozen=True)
class Attacked:
    """Scores of a federation's images, higher for members.

    Attributes:
        scores: of each way and attack, ``[N]``.
        member: ``[N]``, whether the image's site trained on it.
        cell: int64 ``[N]``, a number for each class of each site.
        nearer: ``[N]``, whether one of the ways draws the image's class nearer at its site.
    """

    scores: dict[tuple[str, str], Floats]
    member: NDArray[np.bool_]
    cell: NDArray[np.int64]
    nearer: NDArray[np.bool_]


def attacked(federation: Federation, ways: Sequence[str]) -> Attacked:
    """Attack what a federation draws and learns in each way."""
    scores = dict[tuple[str, str], Floats]()
    sites = federation.sites
    images = [joined([site.data.train, site.data.holdout]) for site in sites]
    for name in ways:
        way = WAYS[name]
        near = [nearness(sites, own.images, way.draw) for own in images]
        scores[name, "nearest"] = np.concatenate([rows[k] for k, rows in enumerate(near)])
        scores[name, "calibrated"] = np.concatenate(
            [rows[k] - np.delete(rows, k, axis=0).mean(0) for k, rows in enumerate(near)]
        )
        students = federation.students(way, LABELS[way.labels](federation, way))
        scores[name, "student"] = np.mean([confidences(federation, student, images) for student in students], axis=0)
    firm = [frozenset[int]().union(*(site.drawer(WAYS[name].draw).firm for name in ways)) for site in sites]
    return Attacked(
        scores,
        np.concatenate([np.arange(len(own)) < len(site.data.train) for site, own in zip(sites, images, strict=True)]),
        np.concatenate([k * len(own.classes) + own.labels for k, own in enumerate(images)]),
        np.concatenate([np.isin(own.labels, list(classes)) for classes, own in zip(firm, images, strict=True)]),
    )


def nearness(sites: Sequence[Site], images: NDArray[np.uint8], draw: Draw) -> Floats:
    """Return ``[sites, N]``: minus the logarithm of the distance from each image to the nearest that a site drew."""
    rows = small_pixels(images)
    found = [nearest(rows, small_pixels(site.drawn(draw)[1]))[1] for site in sites]
    return np.stack([log_nearness(distances[:, None]) for distances in found])


def confidences(federation: Federation, student: Artifact, images: Sequence[ImageSet]) -> Floats:
    """Return ``[N]``: how sure a student is of the class of each image of all sites."""
    said = [predict(federation.study, student, own, federation.job.runtime) for own in images]
    return np.concatenate(
        [logit_scaled_confidence(logits, own.labels) for logits, own in zip(said, images, strict=True)]
    )


def pooled(parts: Sequence[Attacked]) -> Attacked:
    """Return the scores of several federations as one."""
    keys, starts = parts[0].scores, np.cumsum([0, *(part.cell.max() + 1 for part in parts[:-1])])
    return Attacked(
        {key: np.concatenate([part.scores[key] for part in parts]) for key in keys},
        np.concatenate([part.member for part in parts]),
        np.concatenate([part.cell + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.nearer for part in parts]),
    )


def pairs_won(scores: Floats, found: Attacked, cells: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return of each of ``cells [C]`` in how many pairs of a member and a non-member the member scores higher.

    And how many pairs there are; equal scores count half. Both are divided by one more than the cell has images, so
    that a large cell counts as far as it is surer (van Elteren 1960).
    """
    won, pairs = np.zeros(len(cells)), np.zeros(len(cells))
    for index, cell in enumerate(cells):
        inside, outside = (scores[(found.cell == cell) & side] for side in (found.member, ~found.member))
        higher = np.sign(inside[:, None] - outside)
        images = len(inside) + len(outside) + 1
        won[index], pairs[index] = (higher + 1).sum() / 2 / images, higher.size / images
    return won, pairs


def figures(found: Attacked, ways: Sequence[str]) -> list[Row]:
    """Return each attack's AUC on each way, and how much more it finds than on the first, with 95 % intervals.

    Raises:
        UserError: scores that are not finite.
    """
    if not all(np.isfinite(scores).all() for scores in found.scores.values()):
        raise UserError("scores that are not finite; did a training diverge?")
    rows = []
    both = np.intersect1d(found.cell[found.member], found.cell[~found.member])
    for part, cells in ((ALL, both), (NEARER, np.intersect1d(both, found.cell[found.nearer]))):
        if not len(cells):
            continue
        weights = drawn(np.arange(len(cells)), RESAMPLES, numpy_rng("leakage", part))
        kept = np.isin(found.cell, cells)
        members = int(found.member[kept].sum())
        known = {"of": part, "cells": len(cells), "members": members, "nonmembers": int(kept.sum()) - members}
        once = np.ones((1, len(cells)))
        aucs = dict[tuple[str, str], Floats]()
        for (way, attack), scores in found.scores.items():
            won, pairs = pairs_won(scores, found, cells)
            aucs[way, attack] = np.concatenate([(w @ won) / (w @ pairs) for w in (once, weights)])
            row = {"way": way, "attack": attack} | known | with_limits("auc", interval_of(aucs[way, attack]))
            if way != ways[0]:
                row |= with_limits("more", interval_of(aucs[way, attack] - aucs[ways[0], attack]))
            rows.append(row)
    return rows


def interval_of(values: Floats) -> tuple[float, float, float]:
    """Return a figure, the first of ``values``, and the 95 % limits of all others, its resamples."""
    low, high = np.quantile(values[1:], LIMITS)
    return float(values[0]), float(low), float(high)


def main(words: list[str]) -> int:
    """Measure what the words ask for, and write the rows as each cut ends."""
    asked = Request.read(words, ways="five,doubt+five", generator="edm", budget="standard")
    ways, generator, budget = asked.ways, asked.options["generator"], asked.options["budget"]
    parts = list[Attacked]()

    def measured(cut: str, seed: int) -> list[Row]:
        study = study_of(cut, seed, asked.root, budget, generator)
        federation = Federation(cut, study, generator != STAND_IN, asked.folder(cut, seed))
        found = attacked(federation, ways)
        rows = [{"generator": generator, "budget": budget} | row for row in figures(found, ways)]
        parts.append(found)
        return rows

    asked.write(measured, lambda: figures(pooled(parts), ways))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
