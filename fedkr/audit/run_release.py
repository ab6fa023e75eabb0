"""The audit of what a site released: attacks on its images and soft labels, and on what is learnt from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.calibrated import calibrated, fused
from fedkr.audit.attacks.neighbours import neighbour_signals
from fedkr.audit.attacks.observed import Bools, Floats, Observed
from fedkr.audit.attacks.on_releases import release_scores
from fedkr.audit.challenge import Challenge, candidates
from fedkr.audit.findings import AuditReport, report_from_scores
from fedkr.audit.statistics.two_sample import closeness_test
from fedkr.audit.subject import Subject
from fedkr.audit.targets import row_key
from fedkr.config import CALIBRATED_ATTACKS, FUSED_ATTACK
from fedkr.data.distances import common_spaces, small_pixels
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from fedkr.release import Release, SoftSet
from fedkr.seeds import derive_seed, numpy_rng

# Of larger releases a random part this large is attacked, which keeps a site's audit within minutes.
MOST_RELEASED = 20_000
# Of the signals of nearest neighbours, distances in pixels and in features: what a copy shows in.
CLOSENESS = slice(0, 2)
# All claims of an audit are corrected together, so that this test takes more permutations than the blind baseline.
# From some eight sites on its least p-value is no "leakage found" all the same, and only bars a pass.
TIMES_PERMUTATIONS, MOST_OF_RELEASE = 5, 50_000


@dataclass(frozen=True)
class ReferenceReleases:
    """Releases that say how an image looks from a release that it has no part in.

    Attributes:
        kind: ``released`` (what other sites released) or ``pipeline`` (what the site's own pipeline makes of halves).
        sets: each reads one of M references when it is called.
        membership: bool ``[M, N]``, which candidates each has a part of.
    """

    kind: str
    sets: Sequence[Callable[[], SoftSet]]
    membership: Bools


def audit_release(
    releases: Sequence[Release],
    population: ImageSet,
    subject: Subject,
    references: Sequence[ReferenceReleases] = (),
    auxiliary: Observed | None = None,
    features_of: Callable[[NDArray[np.uint8]], Floats] = small_pixels,
) -> AuditReport:
    """Attack all that a site released, every round together, and test whether it lies closer to members.

    * Without references: :func:`~fedkr.audit.attacks.on_releases.release_scores`. ``population`` is of the same
      distribution, and no model trained on it (the site's val and test splits).
    * Calibrated by each kind of reference releases: distance to the nearest released images in pixels and in features,
      and their soft labels (:mod:`~fedkr.audit.attacks.neighbours`). Features are the principal components of
      ``features_of`` images (:func:`~fedkr.data.distances.common_spaces`).
    * ``fused``: distance in pixels beside what a classifier trained on the release says, which ``auxiliary`` brings
      with the same of the pipelines that the references of kind ``pipeline`` are of.

    Which row is quoted is fixed beforehand (:data:`~fedkr.audit.targets.RELEASE_HEADLINES`). The copy check is
    :func:`~fedkr.audit.copies.check_copies`.

    Raises:
        UserError: releases of another image shape, or too few images or references.
    """
    site, seed, challenge = subject.site, subject.seed, subject.challenge
    try:
        (images, soft_labels), _ = released_part(releases, challenge, site=site, seed=seed)
        rows_of = common_spaces(images, population.images, numpy_rng(seed, site, "components"), features_of)
        pool = candidates(challenge)
        rows, released = rows_of(pool.images), rows_of(images)
        scores = release_scores(rows, released, rows_of(population.images))
        target = neighbour_signals(rows, pool.labels, released, soft_labels)

        def seen_by(reference: ReferenceReleases) -> Observed:
            parts = (_part(read(), numpy_rng(seed, site, reference.kind, m)) for m, read in enumerate(reference.sets))
            signals = [neighbour_signals(rows, pool.labels, rows_of(part.images), part.soft_labels) for part in parts]
            return Observed(target, np.stack(signals), reference.membership)

        for reference in references:
            beside = auxiliary if reference.kind == "pipeline" else None
            scores |= _calibrated(reference.kind, seen_by(reference), pool.labels, beside)
        others = {reference.kind: reference.kind == "released" for reference in references}
        report = report_from_scores(scores, subject, others)
        closeness = closeness_test(
            target[: challenge.natural, CLOSENESS][report.counted],
            *subject.narrowed.challenge.sides,
            derive_seed(seed, site),
            # One less than a round number, as the images themselves are one more arrangement.
            min(TIMES_PERMUTATIONS * (subject.config.permutations_for(sites=1) + 1), MOST_OF_RELEASE) - 1,
        )
        report.two_sample.append({"site": site, "p_value": closeness})
        return report
    except UserError as error:
        raise UserError(f"audit of {subject.target} at {site}: {error}") from None


def _calibrated(kind: str, seen: Observed, labels: NDArray[np.int64], auxiliary: Observed | None) -> dict[str, Floats]:
    """Return the scores of attacks by one kind of references, by row key."""
    by_signal = calibrated(seen, labels)
    scores = {row_key(attack, kind): by_signal[:, index] for index, attack in enumerate(CALIBRATED_ATTACKS)}
    if auxiliary is not None:
        together = Observed(
            np.concatenate([seen.target[:, :1], auxiliary.target], axis=1),
            np.concatenate([seen.references[:, :, :1], auxiliary.references], axis=2),
            seen.membership,
        )
        scores[row_key(FUSED_ATTACK, kind)] = fused(together, labels)
    return scores


def released_part(
    releases: Sequence[Release], challenge: Challenge, *, site: str, seed: int
) -> tuple[SoftSet, NDArray[np.int64]]:
    """Return at most ``MOST_RELEASED`` of what was released and the indices in all of it, in order.

    No release, or one of another image shape than the challenge has, is a :class:`UserError`.
    """
    if not releases:
        raise UserError("no release to attack; audit it after the site has released something")
    shape = challenge.members.images.shape[1:]
    for release in releases:
        if release.images.shape[1:] != shape:
            raise UserError(
                f"released images of shape {list(release.images.shape[1:])}, but the site's have {list(shape)}"
            )
    count = sum(len(release) for release in releases)
    chosen = np.sort(numpy_rng(seed, site, "released images").permutation(count)[:MOST_RELEASED])
    ends = np.cumsum([len(release) for release in releases])
    parts = []
    for release, end in zip(releases, ends, strict=True):
        own = chosen[(chosen >= end - len(release)) & (chosen < end)] - (end - len(release))
        parts.append(SoftSet(release.images[own], release.soft_labels[own]))
    return SoftSet.union(parts), chosen


def _part(found: SoftSet, rng: np.random.Generator) -> SoftSet:
    """Return as much of a reference as of the release itself is attacked at most."""
    chosen = np.sort(rng.permutation(len(found.images))[:MOST_RELEASED])
    return SoftSet(found.images[chosen], found.soft_labels[chosen])
