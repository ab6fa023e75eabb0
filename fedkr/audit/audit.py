"""The audit of one model at one site: every configured attack, aggregates only.

Nothing in an :class:`AuditReport` belongs to one example: it holds rates, intervals, counts and a binned ROC curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks import attack_score
from fedkr.audit.challenge import Challenge
from fedkr.audit.metrics import MembershipMetrics, TprAtFpr, membership_metrics, roc_points
from fedkr.config import AuditConfig
from fedkr.errors import UserError
from fedkr.seeds import derive_seed

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Metric = int | float | list[int] | list[float]


@dataclass(frozen=True)
class AttackResult:
    """One attack on one model at one site; ``roc`` is a list of (FPR, TPR)."""

    target: str
    site: str
    attack: str
    metrics: MembershipMetrics
    duplicates: int
    headline: bool
    roc: list[tuple[float, float]]

    def as_row(self) -> dict[str, Any]:
        """Return the row of ``results.json``: plain numbers, text and None."""
        m = self.metrics
        row: dict[str, Any] = {"target": self.target, "site": self.site, "attack": self.attack}
        row |= {"auc": m.auc, "auc_low": m.auc_low, "auc_high": m.auc_high}
        for entry in m.tprs:
            key = f"tpr_at_fpr_{entry.fpr:g}"
            row |= {key: entry.tpr, f"{key}_low": entry.low, f"{key}_high": entry.high}
        row |= {"balanced_accuracy": m.balanced_accuracy, "members": m.members, "nonmembers": m.nonmembers}
        row |= {"duplicates": self.duplicates, "headline": int(self.headline)}
        return row | {"roc": [list(point) for point in self.roc]}


@dataclass(frozen=True)
class AuditReport:
    """All attacks on one model (``target``) at one site."""

    target: str
    site: str
    rows: list[AttackResult]


def audit_model(
    predict: Predict, challenge: Challenge, *, target: str, site: str, config: AuditConfig, seed: int
) -> AuditReport:
    """Attack a model with every attack of ``config.attacks``.

    Args:
        predict: maps uint8 images ``[N, H, W, C]`` to logits float ``[N, K]``, in evaluation mode.
        challenge: the site's members and non-members.
        target: which model, as the report names it.
        site: whose challenge set.
        config: attacks, FPRs, resamples and the headline attack.
        seed: the study's; the resamples depend on it and the site only, so every target meets the same ones.

    Raises:
        UserError: an unknown attack, or a model whose logits are not finite.
    """
    members, nonmembers = challenge.members, challenge.nonmembers
    logits = predict(members.images), predict(nonmembers.images)
    rows = []
    for attack in config.attacks:
        try:
            scores = attack_score(attack, logits[0], members.labels), attack_score(attack, logits[1], nonmembers.labels)
        except UserError as error:
            raise UserError(f"audit of {target} at {site}: {error}") from None
        metrics = membership_metrics(
            *scores,
            fprs=config.fprs,
            bootstrap=config.bootstrap,
            seed=derive_seed(seed, site, "audit"),
            member_groups=members.groups,
            nonmember_groups=nonmembers.groups,
        )
        headline = attack == config.headline
        rows.append(AttackResult(target, site, attack, metrics, challenge.duplicates, headline, roc_points(*scores)))
    return AuditReport(target, site, rows)


def to_metrics(report: AuditReport) -> dict[str, Metric]:
    """Return a report as flat numbers, ``"<attack>/<figure>"``; a figure that is None is left out."""
    values: dict[str, Metric | None] = {}
    for row in report.rows:
        m, prefix = row.metrics, row.attack
        values |= {f"{prefix}/auc": m.auc, f"{prefix}/auc-low": m.auc_low, f"{prefix}/auc-high": m.auc_high}
        for entry in m.tprs:
            key = f"{prefix}/tpr-at-fpr-{entry.fpr:g}"
            values |= {key: entry.tpr, f"{key}-low": entry.low, f"{key}-high": entry.high}
        values |= {f"{prefix}/balanced-accuracy": m.balanced_accuracy, f"{prefix}/duplicates": row.duplicates}
        values |= {f"{prefix}/members": m.members, f"{prefix}/nonmembers": m.nonmembers}
        values[f"{prefix}/roc-fpr"] = [fpr for fpr, _ in row.roc]
        values[f"{prefix}/roc-tpr"] = [tpr for _, tpr in row.roc]
    return {key: value for key, value in values.items() if value is not None}


def from_metrics(metrics: Mapping[str, Any], target: str, site: str, config: AuditConfig) -> AuditReport:
    """Return the report that :func:`to_metrics` flattened; a missing TPR or balanced accuracy becomes None.

    Raises:
        UserError: a figure that every audit has is missing, or a value is no rate or count.
    """
    where = f"audit of {target} at {site}"
    rows = []
    for attack in config.attacks:
        figures = _Figures({k.removeprefix(f"{attack}/"): v for k, v in metrics.items() if k.startswith(f"{attack}/")})
        try:
            rows.append(figures.result(target, site, attack, config))
        except UserError as error:
            raise UserError(f"{where}: {attack}/{error}; is the site's fedkr of the same version?") from None
    return AuditReport(target, site, rows)


class _Figures:
    """One attack's figures as they arrived: read with a check each, since another machine wrote them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def result(self, target: str, site: str, attack: str, config: AuditConfig) -> AttackResult:
        measured = MembershipMetrics(
            auc=self.rate("auc"),
            auc_low=self.rate("auc-low"),
            auc_high=self.rate("auc-high"),
            tprs=tuple(self.tpr(fpr) for fpr in config.fprs),
            balanced_accuracy=self.rate_or_none("balanced-accuracy"),
            members=self.count("members"),
            nonmembers=self.count("nonmembers"),
        )
        roc = list(zip(self.rates("roc-fpr"), self.rates("roc-tpr"), strict=False))
        return AttackResult(target, site, attack, measured, self.count("duplicates"), attack == config.headline, roc)

    def tpr(self, fpr: float) -> TprAtFpr:
        key = f"tpr-at-fpr-{fpr:g}"
        return TprAtFpr(fpr, self.rate_or_none(key), self.rate_or_none(f"{key}-low"), self.rate_or_none(f"{key}-high"))

    def rate(self, key: str) -> float:
        return _rate(key, self.required(key))

    def rate_or_none(self, key: str) -> float | None:
        return _rate(key, self.values[key]) if key in self.values else None

    def rates(self, key: str) -> list[float]:
        values = self.required(key)
        if not isinstance(values, list):
            raise UserError(f"{key}={values!r}: expected a list of rates")
        return [_rate(key, value) for value in values]

    def count(self, key: str) -> int:
        value = self.required(key)
        if not isinstance(value, int) or value < 0:
            raise UserError(f"{key}={value!r}: expected a count")
        return value

    def required(self, key: str) -> Any:
        if key not in self.values:
            raise UserError(f"{key} is missing")
        return self.values[key]


def _rate(key: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserError(f"{key}={value!r}: expected a number between 0 and 1")
    return float(value)
