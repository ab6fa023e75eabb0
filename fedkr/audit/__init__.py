"""The audit: what an attacker learns about single private images, measured at the site that owns them."""

from fedkr.audit.attacks import SIGNALS, attack_score
from fedkr.audit.audit import AttackResult, AuditReport, audit_model, from_metrics, to_metrics
from fedkr.audit.blind import BlindResult, blind_baseline, holm_reject
from fedkr.audit.challenge import Challenge, build_challenge
from fedkr.audit.metrics import (
    MembershipMetrics,
    TprAtFpr,
    accuracy_over_privacy,
    auc,
    membership_metrics,
    roc_points,
    tpr_at_fpr,
)

__all__ = [
    "SIGNALS",
    "AttackResult",
    "AuditReport",
    "BlindResult",
    "Challenge",
    "MembershipMetrics",
    "TprAtFpr",
    "accuracy_over_privacy",
    "attack_score",
    "auc",
    "audit_model",
    "blind_baseline",
    "build_challenge",
    "from_metrics",
    "holm_reject",
    "membership_metrics",
    "roc_points",
    "to_metrics",
    "tpr_at_fpr",
]
