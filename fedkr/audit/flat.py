"""A report as flat metrics, which is all that Flower's record of an answer can hold, and back again with checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedkr.audit.figures import NO_COINS, AttackResult, AuditReport, ClassAuc
from fedkr.audit.names import AUDIT_METRICS, CANARY, CLASS_AUCS, INTERVAL, metric_names
from fedkr.audit.statistics.coins import REASONS
from fedkr.audit.statistics.epsilon import OneRunBound, epsilon_lower_bound
from fedkr.audit.statistics.membership import ROC_POINTS, MembershipMetrics, TprAtFpr, resolvable
from fedkr.audit.targets import adversary_of, headline_key, row_key, row_names
from fedkr.config import REFERENCE_ATTACKS, AuditConfig
from fedkr.errors import UserError

Metric = int | float | list[int] | list[float]
# A class with too few images; a list of numbers has no other way to say "none".
NO_FIGURE = -1.0
MOST_CLASSES = 1000
LARGEST_COUNT = 2**53
CONFIDENCE = 0.95


def to_metrics(report: AuditReport) -> dict[str, Metric]:
    """Return a report as flat numbers, ``"<row key>/<figure>"``; figures that are None are left out.

    The TPR at an FPR that the non-members cannot resolve travels too: it counts for the rate pooled over sites.
    """
    values: dict[str, Metric | None] = {}
    for prefix, rows in (("", report.rows), (CANARY, report.canaries)):
        for row in rows:
            values |= {f"{prefix}{row.key}/{figure}": value for figure, value in _row_figures(row).items()}
    if report.headline is not None and report.per_class:
        for name, figure in zip(CLASS_AUCS, ("auc", "low", "high"), strict=True):
            values[f"{report.headline.key}/{name}"] = [
                NO_FIGURE if c is None else float(getattr(c, figure)) for c in report.per_class
            ]
    if report.epsilon is not None:
        values |= {f"epsilon/{name}": getattr(report.epsilon, name) for name in ("coins", "guesses", "correct")}
    elif report.epsilon_reason != NO_COINS:
        values["epsilon/reason"] = REASONS.index(report.epsilon_reason)
    return {key: value for key, value in values.items() if value is not None}


def _row_figures(row: AttackResult) -> dict[str, Metric | None]:
    m = row.metrics
    values: dict[str, Metric | None] = {"auc": m.auc, "auc-low": m.auc_low, "auc-high": m.auc_high}
    for entry in m.tprs:
        key = f"tpr-at-fpr-{entry.fpr:g}"
        values |= {key: entry.rate, f"{key}-low": entry.rate_low, f"{key}-high": entry.rate_high}
    halves = m.balanced_accuracy, m.balanced_accuracy_low, m.balanced_accuracy_high
    values |= {f"balanced-accuracy{end}": value for end, value in zip(INTERVAL, halves, strict=True)}
    values |= {"members": m.members, "nonmembers": m.nonmembers}
    values |= {"duplicates": row.duplicates, "others": None if row.others is None else int(row.others)}
    if row.roc:
        values |= {"roc-fpr": [fpr for fpr, _ in row.roc], "roc-tpr": [tpr for _, tpr in row.roc]}
    return values


def from_metrics(metrics: Mapping[str, Any], target: str, site: str, config: AuditConfig) -> AuditReport:
    """Return the report that :func:`to_metrics` flattened, without scores of single images.

    Metrics that are no audit's (``seconds``) are passed over. Rows of reference attacks may be missing, since a site
    may lack such models; those of the others may not.

    Raises:
        UserError: a figure that every audit has is missing, a value is no rate or count, figures contradict each other,
            or a metric is none that an audit under ``config`` emits.
    """
    reader = _Reader(metrics, target, site, config)
    try:
        return reader.report()
    except UserError as error:
        raise UserError(f"audit of {target} at {site}: {error}; is the site's fedkr of the same version?") from None


class _Reader:
    """The metrics of one audit as they arrived: read with a check each, since another machine wrote them."""

    def __init__(self, metrics: Mapping[str, Any], target: str, site: str, config: AuditConfig) -> None:
        self.metrics, self.target, self.site, self.config = metrics, target, site, config
        expected = {row_key(attack, kind): (attack, kind) for attack, kind in row_names(target, config.attacks)}
        arrived = {name.partition("/")[0] for name in metrics}
        self.present = {key: row for key, row in expected.items() if row[1] == "none" or key in arrived}
        self.headline = headline_key(target, config.headline, self.present)

    def report(self) -> AuditReport:
        """Return the whole report."""
        known = metric_names(self.config)
        for name in self.metrics:
            if AUDIT_METRICS.fullmatch(name) and name not in known:
                raise UserError(f"{name} is no metric of this study's audit")
        rows = [self.row(key, "") for key in self.present]
        planted = [key for key in self.present if f"{CANARY}{key}/auc" in self.metrics]
        epsilon, reason = self.epsilon()
        return AuditReport(
            self.target,
            self.site,
            rows,
            canaries=[self.row(key, CANARY) for key in planted],
            per_class=[] if self.headline is None else self.per_class(self.headline),
            epsilon=epsilon,
            epsilon_reason=reason,
        )

    def row(self, key: str, prefix: str) -> AttackResult:
        """Return the row ``key``, with the prefix ``CANARY`` that on the canaries."""
        attack, kind = self.present[key]
        at = f"{prefix}{key}/"
        others = self.count(f"{at}others", most=1) if attack in REFERENCE_ATTACKS else None
        return AttackResult(
            target=self.target,
            site=self.site,
            attack=attack,
            metrics=self.measured(at, planted=bool(prefix)),
            duplicates=self.count(f"{at}duplicates"),
            headline=key == self.headline,
            roc=[] if prefix else self.roc(at),
            references=kind,
            adversary=adversary_of(self.target),
            others=None if others is None else bool(others),
        )

    def measured(self, at: str, planted: bool) -> MembershipMetrics:
        """Return the figures whose names begin with ``at``; ``planted`` ones have no balanced accuracy."""
        nonmembers = self.count(f"{at}nonmembers", least=1)
        name = f"{at}balanced-accuracy"
        halves = self.interval(name) if name in self.metrics and not planted else (None, None, None)
        auc, low, high = self.interval(f"{at}auc")
        return MembershipMetrics(
            auc=auc,
            auc_low=low,
            auc_high=high,
            tprs=tuple(
                TprAtFpr(fpr, *self.interval(f"{at}tpr-at-fpr-{fpr:g}"), resolvable(fpr, nonmembers))
                for fpr in self.config.fprs
            ),
            balanced_accuracy=halves[0],
            members=self.count(f"{at}members", least=1),
            nonmembers=nonmembers,
            balanced_accuracy_low=halves[1],
            balanced_accuracy_high=halves[2],
        )

    def roc(self, at: str) -> list[tuple[float, float]]:
        """Return the points (FPR, TPR) of two rising axes of one length."""
        fprs, tprs = (self.rates(f"{at}roc-{axis}", ROC_POINTS) for axis in ("fpr", "tpr"))
        for axis, values in (("fpr", fprs), ("tpr", tprs)):
            if values != sorted(values) or len(values) != len(fprs):
                raise UserError(f"{at}roc-{axis} is no axis of a ROC curve")
        return list(zip(fprs, tprs, strict=True))

    def per_class(self, key: str) -> list[ClassAuc | None]:
        """Return the AUC of each class by the row ``key``, None for a class that has none; empty where none came."""
        names = [f"{key}/{name}" for name in CLASS_AUCS]
        if names[0] not in self.metrics:
            return []
        lists = [self.rates(name, MOST_CLASSES, none=True) for name in names]
        if len({len(values) for values in lists}) != 1:
            raise UserError(f"{names[0]} and its limits are of different lengths")
        found: list[ClassAuc | None] = []
        for label, (auc, low, high) in enumerate(zip(*lists, strict=True)):
            missing = [value == NO_FIGURE for value in (auc, low, high)]
            if any(missing) != all(missing) or low > high:
                raise UserError(f"{names[0]}: the interval of class {label} is none")
            found.append(None if all(missing) else ClassAuc(auc, low, high))
        return found

    def epsilon(self) -> tuple[OneRunBound | None, str]:
        """Return the bound, worked out from its counts, or None and why there is none."""
        if "epsilon/reason" in self.metrics:
            return None, REASONS[self.count("epsilon/reason", most=len(REASONS) - 1)]
        if "epsilon/coins" not in self.metrics:
            return None, NO_COINS
        coins = self.count("epsilon/coins", least=1)
        guesses = self.count("epsilon/guesses", most=coins)
        correct = self.count("epsilon/correct", most=guesses)
        bounds = [
            epsilon_lower_bound(coins, *guessed, delta=self.config.delta, confidence=CONFIDENCE)
            for guessed in ((guesses, correct), (coins, coins))
        ]
        return OneRunBound(bounds[0], self.config.delta, CONFIDENCE, coins, guesses, correct, bounds[1]), ""

    def interval(self, name: str) -> tuple[float, float, float]:
        """Return a rate with its lower and upper limit."""
        value, low, high = (self.rate(f"{name}{end}") for end in INTERVAL)
        if low > high:
            raise UserError(f"{name}: the lower limit {low} is above the upper limit {high}")
        return value, low, high

    def rate(self, name: str) -> float:
        """Return a number between 0 and 1."""
        return _rate(name, self.required(name))

    def rates(self, name: str, longest: int, none: bool = False) -> list[float]:
        """Return at most ``longest`` numbers between 0 and 1; with ``none``, ``NO_FIGURE`` may be among them."""
        values = self.required(name)
        if not isinstance(values, list) or len(values) > longest:
            raise UserError(f"{name}={str(values)[:40]}: expected a list of at most {longest} rates")
        return [NO_FIGURE if none and value == NO_FIGURE else _rate(name, value) for value in values]

    def count(self, name: str, least: int = 0, most: int = LARGEST_COUNT) -> int:
        """Return a whole number between ``least`` and ``most``."""
        value = self.required(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UserError(f"{name}={value!r}: expected a count between {least} and {most}")
        return value

    def required(self, name: str) -> Any:
        """Return a metric that must be there."""
        if name not in self.metrics:
            raise UserError(f"{name} is missing")
        return self.metrics[name]


def _rate(name: str, value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1:
        raise UserError(f"{name}={value!r}: expected a number between 0 and 1")
    return float(value)
