"""What ways of drawing give away of the images that sites trained on.

``python -m simulations.evidence.skew.leakage OUT.json data.root=DIR seeds=3,4 cuts=blood-tail [ways=five,doubt+five]
[generator=edm] [budget=standard]``. Members are a site's training images, non-members its holdout. Three attacks:
``nearest``, by the distance to the nearest image that the site drew; ``calibrated``, by how much nearer that is than
what the other sites drew, in the mean; ``student``, by how sure the student of all sites is of the image's class. Each
way stands beside the first one on the same images: of all classes, and of those that one of the ways draws nearer at
the site.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.lira import logit_scaled_confidence
from fedkr.audit.statistics.membership import membership_figures
from fedkr.audit.statistics.paired import paired_difference
from fedkr.data.distances import log_nearness, nearest, small_pixels
from fedkr.data.images import joined
from fedkr.seeds import derive_seed
from server.targets import predict
from simulations.evidence.skew.federation import STAND_IN, Federation, Site, study_of
from simulations.evidence.skew.labels import LABELS
from simulations.evidence.skew.rows import Request, Row
from simulations.evidence.skew.ways import WAYS, Draw
from simulations.exits import guarded

Floats = NDArray[np.float64]
ALL, NEARER = "all", "drawn nearer"
RESAMPLES = 2000
KEPT = ("members", "nonmembers", "auc", "auc_low", "auc_high")


@dataclass(frozen=True)
class Attacked:
    """Scores of a federation's images, higher for members.

    Attributes:
        scores: of each way and attack, ``[N]``.
        member: ``[N]``, whether the image's site trained on it.
        nearer: ``[N]``, whether one of the ways draws the image's class nearer at its site.
    """

    scores: dict[tuple[str, str], Floats]
    member: NDArray[np.bool_]
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
        student = federation.students(way, LABELS[way.labels](federation, way))[0]
        said = [predict(federation.study, student, own, federation.job.runtime) for own in images]
        confidences = [logit_scaled_confidence(logits, own.labels) for logits, own in zip(said, images, strict=True)]
        scores[name, "student"] = np.concatenate(confidences)
    firm = [frozenset[int]().union(*(site.drawer(WAYS[name].draw).firm for name in ways)) for site in sites]
    return Attacked(
        scores,
        np.concatenate([np.arange(len(own)) < len(site.data.train) for site, own in zip(sites, images, strict=True)]),
        np.concatenate([np.isin(own.labels, list(classes)) for classes, own in zip(firm, images, strict=True)]),
    )


def nearness(sites: Sequence[Site], images: NDArray[np.uint8], draw: Draw) -> Floats:
    """Return ``[sites, N]``: minus the logarithm of the distance from each image to the nearest that a site drew."""
    rows = small_pixels(images)
    found = [nearest(rows, small_pixels(site.drawn(draw)[1]))[1] for site in sites]
    return np.stack([log_nearness(distances[:, None]) for distances in found])


def pooled(parts: Sequence[Attacked]) -> Attacked:
    """Return the scores of several federations as one."""
    keys = parts[0].scores
    return Attacked(
        {key: np.concatenate([part.scores[key] for part in parts]) for key in keys},
        np.concatenate([part.member for part in parts]),
        np.concatenate([part.nearer for part in parts]),
    )


def figures(found: Attacked, ways: Sequence[str]) -> list[Row]:
    """Return each attack's AUC on each way, and how much more it finds than on the first, with 95 % intervals."""
    rows = []
    for part, kept in ((ALL, np.ones(len(found.member), bool)), (NEARER, found.nearer)):
        member = found.member[kept]
        if not 0 < member.sum() < len(member):
            continue
        order = np.argsort(~member, kind="stable")
        for (way, attack), scores in found.scores.items():
            seed, own = derive_seed(0, part, attack), scores[kept][order]
            first = found.scores[ways[0], attack][kept][order]
            inside, outside = own[: member.sum()], own[member.sum() :]
            auc = membership_figures(inside, outside, fprs=[0.1], bootstrap=RESAMPLES, seed=seed)
            row = {"way": way, "attack": attack, "of": part} | {name: auc[name] for name in KEPT}
            if way != ways[0]:
                more = paired_difference(own, first, int(member.sum()), RESAMPLES, seed)
                row |= {"more": more.difference, "more_low": more.low, "more_high": more.high}
            rows.append(row)
    return rows


def main(words: list[str]) -> int:
    """Measure what the words ask for, and write the rows as each cut ends."""
    asked = Request.read(words, ways="five,doubt+five", generator="edm", budget="standard")
    ways, generator, budget = asked.options["ways"].split(","), asked.options["generator"], asked.options["budget"]
    parts = list[Attacked]()

    def measured(cut: str, seed: int) -> list[Row]:
        study = study_of(cut, seed, asked.root, budget, generator)
        federation = Federation(cut, study, generator != STAND_IN, asked.folder(cut, seed))
        parts.append(attacked(federation, ways))
        return [{"generator": generator, "budget": budget} | row for row in figures(parts[-1], ways)]

    asked.write(measured, lambda: figures(pooled(parts), ways))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
