"""A site's coins: which examples count for the one-run bound on epsilon, and how many of them an attack guesses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.statistics.epsilon import correct_guesses
from fedkr.audit.statistics.membership import Floats
from fedkr.audit.subject import Subject
from fedkr.data.images import image_digests
from fedkr.seeds import numpy_rng

GROUPED = "images of one group share a coin, and there are no canaries"
TOO_FEW = "there are too few coins"
REASONS = (GROUPED, TOO_FEW)
# Of the coins, a tenth is guessed; so many at least, all right of which show an epsilon of 1.8; of fewer than twice as
# many coins a half, since a perfect attack guesses as many "in" as "out", of which there are about as many each.
SHARE_GUESSED, LEAST_GUESSED = 10, 20


def guessed_coins(scores: Floats, subject: Subject) -> dict[str, Any] | None:
    """Guess, by an attack's ``scores``, the coins that put canaries and, with ``audit.coins``, natural images in train.

    Scores are float ``[N]`` of the headline attack on all candidates (natural images, then canaries). Only independent
    coins count. Images of a group share one, and so may equal images (a pair that the coins parted was removed from the
    challenge, so that those left agree): both are left out. The number of guesses is ``audit.guesses``, or
    :func:`usual_guesses`, and depends on neither scores nor on how the coins fell.

    Returns:
        The counts ``coins``, ``guesses`` and ``correct`` with an empty ``reason``; or one of :data:`REASONS` as the
        ``reason`` why there are none; or None where the study tosses no coins.
    """
    challenge, config = subject.challenge, subject.config
    if challenge.canaries is None and not config.coins:
        return None
    if challenge.canaries is None and challenge.members.groups is not None:
        return {"reason": GROUPED}
    included = np.repeat([True, False], [len(challenge.members), len(challenge.nonmembers)])
    eligible = _natural_coins(subject)
    if challenge.canaries is not None:
        included = np.concatenate([included, challenge.canaries.included])
        eligible = np.concatenate([eligible, np.ones(len(challenge.canaries), bool)])
    # Candidates are sorted by their coins; equal scores must be guessed in an order that knows nothing of them.
    order = numpy_rng(subject.seed, subject.site, "audit", "coins").permutation(np.flatnonzero(eligible))
    guesses = min(config.guesses or usual_guesses(len(order)), len(order))
    if guesses < 1:
        return {"reason": TOO_FEW}
    correct = correct_guesses(scores[order], included[order], guesses)
    return {"coins": len(order), "guesses": guesses, "correct": correct, "reason": ""}


def usual_guesses(coins: int) -> int:
    """Return how many of so many coins are guessed where a study does not say it."""
    return min(coins // 2, max(coins // SHARE_GUESSED, LEAST_GUESSED))


def _natural_coins(subject: Subject) -> NDArray[np.bool_]:
    """Return bool ``[N]``, which natural images have a coin of their own."""
    challenge = subject.challenge
    if not subject.config.coins or challenge.members.groups is not None:
        return np.zeros(challenge.natural, bool)
    digests = image_digests(challenge.members.images) + image_digests(challenge.nonmembers.images)
    copies = Counter(digests)
    return np.array([copies[digest] == 1 for digest in digests])
