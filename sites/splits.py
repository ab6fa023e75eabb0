"""A site's own split: its seed and shares are in the site file, so that no study moves an image between the sets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated

from fedkr.config import CANARY_KINDS, OneOf, SplitConfig, Study, check_shares, check_values
from fedkr.config.schema import Share
from fedkr.data import ImageSet, SiteData, prepare_site
from fedkr.errors import UserError


@dataclass
class SiteSplit(SplitConfig):
    """Which images are for what; by patient where the data name groups.

    Attributes:
        seed: of the draw.
        coins: whether a fair coin decides for each image (with groups: each patient) if it is a member or in the
            holdout, which a study with ``audit.coins`` needs.
        canary_kinds: kinds of canaries that a study may plant. Noise and outliers are made of no image of the site's;
            the others take images out of the holdout or the audit's members, as many as the study says.
    """

    seed: int = 0
    val: Share = 0.15
    test: Share = 0.15
    holdout: Share = 0.15
    coins: bool = False
    canary_kinds: list[Annotated[str, OneOf(*CANARY_KINDS)]] = field(default_factory=lambda: ["noise"])

    def check(self, where: str) -> None:
        """Raise :class:`UserError` for a value that no split can have."""
        check_values(self, f"{where}: split")
        check_shares(self, f"{where}: split")

    def allow(self, study: Study) -> None:
        """Raise :class:`UserError` for a study whose audit would move images between the sets."""
        if study.audit.coins and not self.coins:
            raise UserError(
                "audit.coins=true would deal this site's members and holdout anew; set audit.coins=false, or "
                "split.coins: true in the site file before its first study"
            )
        if study.privacy.guaranteed and study.audit.canaries:
            # One made of an image would let that count twice.
            raise UserError(f"audit.canaries={study.audit.canaries}: with privacy.mode=dp this site plants none; set 0")
        if study.audit.canary_toss:
            # What one and the same canary changes of a site's releases would be the difference between two studies.
            raise UserError(f"audit.canary_toss={study.audit.canary_toss}: this site tosses its coins once; set 0")
        moving = [kind for kind in study.audit.canary_kinds if kind not in self.canary_kinds]
        if study.audit.canaries and moving:
            raise UserError(
                f"audit.canary_kinds={study.audit.canary_kinds}: this site plants {self.canary_kinds} only "
                "(split.canary_kinds in the site file)"
            )

    def prepare(self, pool: ImageSet, study: Study, site: str, least_patients: int = 1) -> SiteData:
        """Return the site's sets, with the canaries that the study asks for; nothing else of them is the study's.

        Classes of fewer than ``least_patients`` patients in train are in the test set alone.
        """
        audit = dataclasses.replace(study.audit, coins=self.coins)
        return prepare_site(
            pool, dataclasses.replace(study, seed=self.seed, split=self, audit=audit), site, least_patients
        )
