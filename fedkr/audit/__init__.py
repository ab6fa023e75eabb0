"""The audit: what an attacker learns about single private images, measured at the site that owns them."""

from fedkr.audit.attacks import SIGNALS, attack_score
from fedkr.audit.audit import AttackResult, AuditReport, audit_model, from_metrics, to_metrics
from fedkr.audit.blind import BlindResult, blind_baseline, holm_reject
from fedkr.audit.challenge import Challenge, build_challenge
from fedkr.audit.epsilon import OneRunBound, audit_epsilon, epsilon_lower_bound
from fedkr.audit.lira import lira_offline, lira_online, logit_scaled_confidence
from fedkr.audit.metrics import (
    MembershipMetrics,
    TprAtFpr,
    accuracy_over_privacy,
    auc,
    membership_metrics,
    roc_points,
    tpr_at_fpr,
)
from fedkr.audit.release_attacks import (
    CopyCheck,
    closest_distance_score,
    copy_check,
    domias_kde_score,
    domias_ratio_score,
    monte_carlo_score,
    pixels,
    principal_components,
)
from fedkr.audit.rmia import choose_offline_a, rmia_offline, rmia_online

__all__ = [
    "SIGNALS",
    "AttackResult",
    "AuditReport",
    "BlindResult",
    "Challenge",
    "CopyCheck",
    "MembershipMetrics",
    "OneRunBound",
    "TprAtFpr",
    "accuracy_over_privacy",
    "attack_score",
    "auc",
    "audit_epsilon",
    "audit_model",
    "blind_baseline",
    "build_challenge",
    "choose_offline_a",
    "closest_distance_score",
    "copy_check",
    "domias_kde_score",
    "domias_ratio_score",
    "epsilon_lower_bound",
    "from_metrics",
    "holm_reject",
    "lira_offline",
    "lira_online",
    "logit_scaled_confidence",
    "membership_metrics",
    "monte_carlo_score",
    "pixels",
    "principal_components",
    "rmia_offline",
    "rmia_online",
    "roc_points",
    "to_metrics",
    "tpr_at_fpr",
]
