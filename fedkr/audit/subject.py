"""What is attacked, and where: one target at one site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedkr.audit.challenge import Challenge
from fedkr.config import AuditConfig
from fedkr.seeds import derive_seed


@dataclass(frozen=True)
class Subject:
    """One target of the audit at one site.

    Attributes:
        target: which model, or ``release``, as the report names it.
        what: kind of target (``fedkr.config.AUDIT_TARGETS``); the target's name where it is not given.
    """

    target: str
    site: str
    challenge: Challenge
    config: AuditConfig
    seed: int
    what: str = ""

    @property
    def kind(self) -> str:
        """What kind of target it is: that decides who sees it, and what a pass takes."""
        return self.what or self.target

    @property
    def resampling(self) -> dict[str, Any]:
        """Number and seed of the resamples, which every target at the site meets alike."""
        return {"bootstrap": self.config.bootstrap, "seed": derive_seed(self.seed, self.site, "audit")}
