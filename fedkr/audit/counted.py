"""Which candidates count for a kind of target: those of the classes that it was trained on, or drawn and labelled of.

What does not count is left out on both sides. Were it left out on one, members and non-members would differ by class,
or by whether two sites have the same image, and an attack could read that instead of membership.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from fedkr.audit.attacks.observed import Bools
from fedkr.audit.challenge import Challenge, candidates
from fedkr.audit.targets import OF_ONE_SITE, OF_RELEASES
from fedkr.data.images import image_digests


@dataclass(frozen=True)
class Uncounted:
    """What keeps candidates out of an audit.

    Attributes:
        left_out: classes, by index, that no released image is drawn of: their images count neither for the release nor
            for what is trained on releases, though for all that is trained on the images themselves. A trace of them
            may be left all the same, which these figures do not look for: a teacher learns all classes of the training
            split and labels what is released, and a generator with a guarantee learns a spread of all of them.
        elsewhere: digests of what other sites train on (:func:`~fedkr.data.images.image_digests`), None where the site
            cannot know it. An equal image that was held out here is no non-member of a model of all sites.
    """

    left_out: Collection[int] = ()
    elsewhere: Collection[bytes] | None = None

    def counted(self, challenge: Challenge, kind: str) -> Counted:
        """Return which candidates of a challenge count for a kind of target."""
        pool = candidates(challenge)
        mask = np.ones(len(pool), bool)
        if kind in OF_RELEASES:
            mask = ~np.isin(pool.labels, list(self.left_out))
        if kind in OF_ONE_SITE or not self.elsewhere:
            return Counted(mask, 0)
        known = np.array([digest in self.elsewhere for digest in image_digests(pool.images)])
        return Counted(mask & ~known, int((mask & known)[: challenge.natural].sum()))


@dataclass(frozen=True)
class Counted:
    """Which candidates count.

    Attributes:
        mask: bool ``[N]``, of all candidates: members, non-members, canaries.
        elsewhere: how many natural images do not because another site trains on the same.
    """

    mask: Bools
    elsewhere: int

    def of(self, challenge: Challenge) -> Challenge:
        """Return the challenge of the candidates that count; :class:`UserError` where a side has none."""
        return challenge.narrowed(self.mask, self.elsewhere)
