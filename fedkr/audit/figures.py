"""What an audit found: rows of figures over all examples, and scores of single images that never leave the site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedkr.audit.statistics.epsilon import OneRunBound
from fedkr.audit.statistics.membership import Floats, MembershipMetrics
from fedkr.audit.targets import row_key

NO_COINS = "audit.coins and audit.canaries are off"


@dataclass(frozen=True)
class AttackResult:
    """One attack on one model at one site.

    Attributes:
        target: which model, as the report names it.
        site: whose challenge set.
        attack: the attack's name.
        metrics: its figures.
        duplicates: images removed because members and non-members share them.
        headline: whether this is the row named beforehand as the one to quote.
        roc: at most 60 pairs (FPR, TPR); empty for canaries.
        references: kind of its reference models: ``none``, ``direct`` or ``pipeline``.
        adversary: who could mount it: ``outsider``, ``server`` or ``owner``.
        others: whether the reference models trained on the other sites' releases too; None without such models.
    """

    target: str
    site: str
    attack: str
    metrics: MembershipMetrics
    duplicates: int
    headline: bool
    roc: list[tuple[float, float]]
    references: str = "none"
    adversary: str = "outsider"
    others: bool | None = None

    @property
    def key(self) -> str:
        """The row's name on the wire, as ``rmia@direct``."""
        return row_key(self.attack, self.references)

    def as_row(self) -> dict[str, Any]:
        """Return the row of ``results.json``: plain numbers, text and None.

        A TPR that the non-members cannot resolve is None; ``unresolved_tpr_at_fpr_*`` then holds what the site has to
        add to the rate pooled over sites.
        """
        m = self.metrics
        row = self._names() | {"adversary": self.adversary, "others": self.others} | self._rates()
        for entry in m.tprs:
            if not entry.resolved:
                key = f"unresolved_tpr_at_fpr_{entry.fpr:g}"
                row |= {key: entry.rate, f"{key}_low": entry.rate_low, f"{key}_high": entry.rate_high}
        row |= {f"balanced_accuracy{end}": getattr(m, f"balanced_accuracy{end}") for end in ("", "_low", "_high")}
        row |= {"members": m.members, "nonmembers": m.nonmembers}
        row |= {"duplicates": self.duplicates, "headline": int(self.headline)}
        return row | {"roc": [list(point) for point in self.roc]}

    def as_canary_row(self) -> dict[str, Any]:
        """Return the row of ``audit_extras.canaries``: members are the planted images, non-members those left out."""
        counts = {"included": self.metrics.members, "excluded": self.metrics.nonmembers}
        return self._names() | self._rates() | counts

    def _names(self) -> dict[str, Any]:
        return {"target": self.target, "site": self.site, "attack": self.attack, "references": self.references}

    def _rates(self) -> dict[str, float | None]:
        m = self.metrics
        row: dict[str, float | None] = {"auc": m.auc, "auc_low": m.auc_low, "auc_high": m.auc_high}
        for entry in m.tprs:
            key = f"tpr_at_fpr_{entry.fpr:g}"
            row |= {key: entry.tpr, f"{key}_low": entry.low, f"{key}_high": entry.high}
        return row


@dataclass(frozen=True)
class ClassAuc:
    """The headline attack's AUC among the images of one class, with its 95 % interval."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class AuditReport:
    """All attacks on one model (``target``) at one site.

    Attributes:
        rows: one an attack and kind of reference models.
        scores: by row key, float64 ``[N]`` of members and then non-members. Figures of single images: they stay at the
            site, no serialisation holds them.
        canary_scores: by row key, float64 ``[m]``; the same holds.
        canaries: each attack on the canaries, those put in against those left out.
        per_class: the headline attack within each class; None where the class has too few images.
        epsilon: the bound that the headline attack's guesses of the coins give, or None ...
        epsilon_reason: ... and why there is none.
    """

    target: str
    site: str
    rows: list[AttackResult]
    scores: Mapping[str, Floats] = field(default_factory=dict, compare=False, repr=False)
    canary_scores: Mapping[str, Floats] = field(default_factory=dict, compare=False, repr=False)
    canaries: list[AttackResult] = field(default_factory=list)
    per_class: list[ClassAuc | None] = field(default_factory=list)
    epsilon: OneRunBound | None = None
    epsilon_reason: str = NO_COINS

    @property
    def headline(self) -> AttackResult | None:
        """The row named beforehand; None where its attack had no reference models."""
        return next((row for row in self.rows if row.headline), None)

    def extras(self) -> dict[str, list[dict[str, Any]]]:
        """Return this report's part of ``audit_extras``: rows ``canaries``, ``per_class`` and ``epsilon``."""
        headline = self.headline
        found: dict[str, list[dict[str, Any]]] = {"canaries": [row.as_canary_row() for row in self.canaries]}
        if headline is None:
            return found | {"per_class": [], "epsilon": []}
        where = {"target": self.target, "site": self.site, "attack": headline.attack, "references": headline.references}
        lists = {name: [c and getattr(c, name) for c in self.per_class] for name in ("auc", "low", "high")}
        found["per_class"] = [where | {"classes": list(range(len(self.per_class)))} | lists] if self.per_class else []
        bound = {} if self.epsilon is None else vars(self.epsilon)
        row = where | {"epsilon": None, **bound, "reason": self.epsilon_reason}
        found["epsilon"] = [row] if self.epsilon_reason != NO_COINS else []
        return found
