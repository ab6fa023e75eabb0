"""Quarantine: a release that speaks against itself, or that other sites' releases speak against, teaches no student.

Each release is judged by evidence against it alone, never by when it came. What nobody else can judge, such as a class
that one site has, stays: skewed sites are no suspects. A trigger that is blended into whole images is not found, nor is
poison in a part of each slice that leaves the rest of it as it should be, nor, where images hardly foretell their
labels, a slice with the labels of other images, or labels that were dealt again until they passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from fedkr.release import ReleasedSets, SoftSet
from fedkr.seeds import numpy_rng
from server.evidence import (
    LEAST_IMAGES,
    LEAST_RELATED,
    Flags,
    Judged,
    Witness,
    contradicted_share,
    distinct_share,
    label_content,
    label_relation,
    strangeness,
    trigger_share,
)
from server.judges import Judges
from server.sharing import chained, sample, sample_part

# What no honest release of simulations/results/security.md came near.
LEAST_DISTINCT = 0.5
LEAST_RELATION = 0.1
LEAST_OF_SLICE = 0.3
LEAST_CONTENT = 0.01
MOST_STRANGE = 4.0
MOST_CONTRADICTED = 0.1
MOST_TRIGGERED = 0.02
# Standard deviations of labels that are dealt at random.
SURE = 3.0
# So many images of a slice, and of a whole release, are looked at.
MOST_IMAGES = 1000
# A student knows a class where it finds so much of it in its own site's images.
KNOWN_RECALL = 0.7


def judge_releases(judges: Judges, *, guaranteed: bool) -> dict[str, str]:
    """Return why a release must not teach, by site; sites that are missing there may.

    With a guarantee others' contradictions count for nothing: at small sites of digits, epsilon 8, noise made honest
    releases contradict each other as much as poisoned labels do (simulations/results/dp.md).
    """
    sets = judges.sets
    # No site knows the others' images, so none knows which of its own are looked at.
    draw = numpy_rng("quarantine", *sorted(own.digest() for own in sets.values()))
    reasons = {site: why for site, own in sets.items() if (why := _speaks_against_itself(own, draw))}
    left = {site: Judged.of(sample(own, MOST_IMAGES, draw)) for site, own in sets.items() if site not in reasons}
    reasons |= _by_others(left, judges, guaranteed) if len(left) > 1 else {}
    return {site: reasons[site] for site in sets if site in reasons}


def _speaks_against_itself(sets: ReleasedSets, draw: np.random.Generator) -> str:
    """Return what is wrong with any slice of a release, or with all of it: slices may be too small to judge."""
    slices = [sample_part(sets(number), MOST_IMAGES, draw) for number in range(len(sets))]
    judged = [Judged.of(own) for own in slices]
    if len(slices) > 1:
        judged.append(_some_of(slices, draw))
    for own in judged:
        if why := _is_junk(own):
            return why
    # What was judged last is all of it.
    if (relation := label_relation(judged[-1])) is None:
        return ""
    unrelated = relation < LEAST_RELATION or any(
        _stands_apart(own, [*slices[:k], *slices[k + 1 :]], relation, draw)
        for k, own in enumerate(judged[:-1])
        if len(own.labels) >= LEAST_RELATED
    )
    return "its labels have nothing to do with its images" if unrelated else ""


def _some_of(slices: Sequence[SoftSet], draw: np.random.Generator) -> Judged:
    """Return as many images of each slice as are looked at together."""
    return Judged.of(sample(ReleasedSets(slices.__getitem__, len(slices)), MOST_IMAGES, draw))


def _stands_apart(own: Judged, others: Sequence[SoftSet], usual: float, draw: np.random.Generator) -> bool:
    """Whether images and labels of a slice are surely less related than those of its release, and hardly are."""
    relation = label_relation(own, _some_of(others, draw))
    return relation is not None and relation < min(LEAST_OF_SLICE, usual - SURE / len(own.labels) ** 0.5)


def _is_junk(own: Judged) -> str:
    """Return what images, or labels, say against themselves."""
    if (distinct := distinct_share(own)) < LEAST_DISTINCT:
        return f"{1 - distinct:.0%} of its images are blank or repeated"
    if (content := label_content(own)) is not None and content < LEAST_CONTENT:
        return "its soft labels say the same of every image"
    return ""


def _by_others(judged: Mapping[str, Judged], judges: Judges, guaranteed: bool) -> dict[str, str]:
    """Judge each release by the images of the others and by students of the others."""

    def view(site: str, images: NDArray[np.uint8]) -> Judged:
        return Judged(images, softmax(judges.logits(site, images), axis=1))

    views = {site: {name: view(site, own.images) for name, own in judged.items()} for site in judged}
    known = {site: known_classes(own, views[site][site], judges.shape.classes) for site, own in judged.items()}
    reasons = {}
    for site, own in judged.items():
        others = [name for name in judged if name != site]
        # Who shares images with all others would make one party of them, so it has no say where it is judged itself.
        party = chained(judges.sharing, others)
        witnesses = [Witness(judged[name], views[name][site], known[name], party[name]) for name in others]
        if why := _against(own, witnesses, guaranteed):
            reasons[site] = why
    return reasons


def _against(own: Judged, witnesses: Sequence[Witness], guaranteed: bool) -> str:
    """Return what most of the others say against a release."""
    if strangeness(own, witnesses) > MOST_STRANGE:
        return "its images are like none of any other site"
    if not guaranteed and (contradicted := contradicted_share(own, witnesses)) > MOST_CONTRADICTED:
        return f"students of other sites contradict {contradicted:.0%} of its labels"
    if (triggered := trigger_share(own, witnesses)) > MOST_TRIGGERED:
        return f"{triggered:.0%} of its images hold one small patch that decides their label"
    return ""


def known_classes(own: Judged, view: Judged, classes: int) -> Flags:
    """Return which classes a student knows: those of which it finds most of its own site's images, bool ``[K]``."""
    flags = [
        own.of_class(label).sum() >= LEAST_IMAGES and (view.labels[own.of_class(label)] == label).mean() >= KNOWN_RECALL
        for label in range(classes)
    ]
    return np.array(flags, dtype=np.bool_)
