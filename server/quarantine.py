"""Quarantine: a release that speaks against itself, or that other sites' releases speak against, teaches no student.

Each release is judged by evidence against it alone. What nobody else can judge, such as a class that one site has,
stays: skewed sites are no suspects. A trigger that is blended into whole images is not found, nor is poison in a part
of each slice that leaves the rest of it as it should be.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from fedkr.release import ReleasedSets, SoftSet
from fedkr.seeds import numpy_rng
from server.evidence import (
    LEAST_IMAGES,
    Flags,
    Judged,
    contradicted_share,
    copied_share,
    distinct_share,
    label_skill,
    strangeness,
    trigger_share,
)
from server.judges import Judges

# What no honest release of simulations/results/security.md came near, and every poisoned one passed.
MOST_COPIED = 0.1
LEAST_DISTINCT = 0.5
LEAST_SKILL = 0.05
MOST_STRANGE = 4.0
MOST_CONTRADICTED = 0.1
MOST_TRIGGERED = 0.02
# So many images of a slice, and of a whole release, are looked at.
MOST_IMAGES = 1000
# A student knows a class where it finds so much of it in its own site's images.
KNOWN_RECALL = 0.7


def judge_releases(judges: Judges) -> dict[str, str]:
    """Return why a release must not teach, by site; sites that are missing there may."""
    sets = judges.sets
    # No site knows the others' images, so none knows which of its own are looked at.
    draw = numpy_rng("quarantine", *sorted(own.digest() for own in sets.values()))
    reasons = {site: why for site, own in sets.items() if (why := _speaks_against_itself(own, draw))}
    judged = {site: _sample(own, draw) for site, own in sets.items() if site not in reasons}
    reasons |= _copies(judged)
    left = {site: own for site, own in judged.items() if site not in reasons}
    reasons |= _by_others(left, judges) if len(left) > 1 else {}
    return {site: reasons[site] for site in sets if site in reasons}


def _sample(sets: ReleasedSets, draw: np.random.Generator) -> Judged:
    """Draw what is judged of all slices of all exchanges, as many of each."""
    parts = [_part_of(sets(number), MOST_IMAGES // len(sets), draw) for number in range(len(sets))]
    return Judged.of(SoftSet.union(parts))


def _part_of(part: SoftSet, most: int, draw: np.random.Generator) -> SoftSet:
    kept = np.sort(draw.permutation(len(part.images))[: max(1, most)])
    return SoftSet(part.images[kept], part.soft_labels[kept])


def _speaks_against_itself(sets: ReleasedSets, draw: np.random.Generator) -> str:
    """Return what is wrong with any slice of a release."""
    for number in range(len(sets)):
        own = Judged.of(_part_of(sets(number), MOST_IMAGES, draw))
        if (distinct := distinct_share(own)) < LEAST_DISTINCT:
            return f"{1 - distinct:.0%} of its images are blank or repeated"
        if (skill := label_skill(own)) is not None and skill < LEAST_SKILL:
            return "its labels have nothing to do with its images"
    return ""


def _copies(judged: Mapping[str, Judged]) -> dict[str, str]:
    """Return which releases are copies of one that came before."""
    reasons: dict[str, str] = {}
    for (earlier, other), (site, own) in itertools.combinations(judged.items(), 2):
        if earlier not in reasons and site not in reasons and (copied := copied_share(own, other)) > MOST_COPIED:
            reasons[site] = f"{copied:.0%} of its images are copies of those of {earlier}, which came before"
    return reasons


def _by_others(judged: Mapping[str, Judged], judges: Judges) -> dict[str, str]:
    """Judge each release by the images of the others and by students of the others."""
    views: dict[str, dict[str, Judged]] = {}
    known: dict[str, Flags] = {}
    for site in judged:
        views[site] = {
            name: Judged(own.images, judges.logits(site, own.images).argmax(axis=1)) for name, own in judged.items()
        }
        known[site] = known_classes(judged[site], views[site][site], judges.shape.classes)
    reasons = {}
    for site, own in judged.items():
        others = [name for name in judged if name != site]
        seen, knowing = [views[name][site] for name in others], [known[name] for name in others]
        contradicted = contradicted_share(own, seen, knowing)
        triggered = trigger_share(own, [judged[name] for name in others], seen, knowing)
        if strangeness(own, [judged[name] for name in others]) > MOST_STRANGE:
            reasons[site] = "its images are like none of any other site"
        elif contradicted > MOST_CONTRADICTED:
            reasons[site] = f"students of other sites contradict {contradicted:.0%} of its labels"
        elif triggered > MOST_TRIGGERED:
            reasons[site] = f"{triggered:.0%} of its images hold one small patch that decides their label"
    return reasons


def known_classes(own: Judged, view: Judged, classes: int) -> Flags:
    """Return which classes a student knows: those of which it finds most of its own site's images, bool ``[K]``."""
    flags = [
        own.of_class(label).sum() >= LEAST_IMAGES and (view.labels[own.of_class(label)] == label).mean() >= KNOWN_RECALL
        for label in range(classes)
    ]
    return np.array(flags, dtype=np.bool_)
