"""The coins of a site: which examples count for the one-run bound on epsilon, and the bound an attack reaches."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.challenge import Challenge, image_digests
from fedkr.audit.figures import NO_COINS
from fedkr.audit.statistics.epsilon import OneRunBound, audit_epsilon
from fedkr.audit.statistics.membership import Floats
from fedkr.config import AuditConfig
from fedkr.seeds import numpy_rng

GROUPED = "images of one group share a coin, and there are no canaries"
NO_ATTACK = "the headline attack had no reference models"
TOO_FEW = "there are too few coins"
REASONS = (NO_COINS, GROUPED, NO_ATTACK, TOO_FEW)
SHARE_GUESSED = 10


def one_run_bound(
    scores: Floats | None, challenge: Challenge, config: AuditConfig, seed: int, site: str
) -> tuple[OneRunBound | None, str]:
    """Bound epsilon from the coins that put canaries and, with ``audit.coins``, natural images into the training data.

    Only independent coins count. Images of a group share one, and so may equal images (a pair that the coins parted
    was removed from the challenge, so that those left agree): both are left out. The number of guesses is
    ``audit.guesses``, or a tenth of the coins, and depends on neither scores nor coins.

    Args:
        scores: float ``[N]`` of the headline attack on all candidates (natural images, then canaries), or None.
        challenge: the site's.
        config: coins, guesses and delta.
        seed: the study's.
        site: the site's name.

    Returns:
        The bound and an empty string, or None and one of :data:`REASONS`.
    """
    eligible, reason = _coins(challenge, config)
    if reason or scores is None:
        return None, reason or NO_ATTACK
    included = np.repeat([True, False], [len(challenge.members), len(challenge.nonmembers)])
    if challenge.canaries is not None:
        included = np.concatenate([included, challenge.canaries.included])
    # Candidates are sorted by their coins; equal scores must be guessed in an order that knows nothing of them.
    order = numpy_rng(seed, site, "audit", "coins").permutation(np.flatnonzero(eligible))
    guesses = min(config.guesses or len(order) // SHARE_GUESSED, len(order))
    if guesses < 1:
        return None, TOO_FEW
    return audit_epsilon(scores[order], included[order], guesses, delta=config.delta), ""


def _coins(challenge: Challenge, config: AuditConfig) -> tuple[NDArray[np.bool_], str]:
    """Return bool ``[N]``, which candidates have a coin of their own, or why none has."""
    canaries = 0 if challenge.canaries is None else len(challenge.canaries)
    grouped = challenge.members.groups is not None
    natural = np.zeros(challenge.natural, bool)
    if config.coins and not grouped:
        digests = image_digests(challenge.members.images) + image_digests(challenge.nonmembers.images)
        copies = Counter(digests)
        natural = np.array([copies[digest] == 1 for digest in digests])
    if not (canaries or config.coins):
        return natural, NO_COINS
    if not canaries and grouped:
        return natural, GROUPED
    return np.concatenate([natural, np.ones(canaries, bool)]), ""
