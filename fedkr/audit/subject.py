"""What is attacked, and where: one target at one site."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fedkr.audit.attacks.observed import Bools
from fedkr.audit.challenge import Challenge
from fedkr.audit.counted import Counted
from fedkr.config import AuditConfig
from fedkr.seeds import derive_seed


@dataclass(frozen=True)
class Subject:
    """One target of the audit at one site.

    Attributes:
        target: which model, or ``release``, as the report names it.
        challenge: all candidates, as reference models know them.
        what: kind of target (``fedkr.config.AUDIT_TARGETS``); the target's name where it is not given.
        counted: which candidates the figures are of; None for all.
    """

    target: str
    site: str
    challenge: Challenge
    config: AuditConfig
    seed: int
    what: str = ""
    counted: Counted | None = None

    @cached_property
    def mask(self) -> Bools:
        """Bool ``[N]``: which candidates the figures are of."""
        return np.ones(self.challenge.size, bool) if self.counted is None else self.counted.mask

    @cached_property
    def narrowed(self) -> Subject:
        """The subject of the candidates that count alone."""
        if self.counted is None:
            return self
        return replace(self, challenge=self.counted.of(self.challenge), counted=None)

    @property
    def kind(self) -> str:
        """What kind of target it is: that decides who sees it, and what a pass takes."""
        return self.what or self.target

    @property
    def resampling(self) -> dict[str, Any]:
        """Number and seed of the resamples, which every target at the site meets alike."""
        return {"bootstrap": self.config.bootstrap, "seed": derive_seed(self.seed, self.site, "audit")}
