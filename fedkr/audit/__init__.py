"""The audit: what an attacker learns about single private images, measured at the site that owns them."""

from fedkr.audit.attacks.calibrated import ReferenceSignals, reference_attack_score, reference_signals
from fedkr.audit.attacks.lira import lira_offline, lira_online, logit_scaled_confidence
from fedkr.audit.attacks.queries import query_views
from fedkr.audit.attacks.released import (
    CopyCheck,
    closest_distance_score,
    copy_check,
    domias_kde_score,
    monte_carlo_score,
    pixels,
    principal_components,
)
from fedkr.audit.attacks.rmia import choose_offline_a, rmia_offline, rmia_online
from fedkr.audit.attacks.thresholds import SIGNALS, attack_score
from fedkr.audit.challenge import Challenge, build_challenge, candidates, site_challenge, site_population
from fedkr.audit.figures import AttackResult, AuditReport, ClassAuc
from fedkr.audit.flat import from_metrics, to_metrics
from fedkr.audit.names import (
    AUDIT_METRICS,
    RELEASE_HEADLINE,
    adversary_of,
    headline_key,
    longest_list,
    metric_names,
    row_key,
)
from fedkr.audit.run import audit_model, report_from_scores
from fedkr.audit.statistics.blind import BlindResult, blind_baseline, holm_reject
from fedkr.audit.statistics.coins import one_run_bound
from fedkr.audit.statistics.epsilon import OneRunBound, audit_epsilon, epsilon_lower_bound
from fedkr.audit.statistics.membership import (
    MembershipMetrics,
    TprAtFpr,
    accuracy_over_privacy,
    auc,
    membership_metrics,
    roc_points,
    tpr_at_fpr,
)
from fedkr.audit.statistics.paired import PairedDifference, paired_difference
from fedkr.audit.statistics.per_class import class_aucs
from fedkr.audit.statistics.pooling import ALL_SITES, pooled_rows, worst_site
from fedkr.audit.verdict import VERDICTS, SiteVerdict, site_verdict, site_verdicts

__all__ = [
    "ALL_SITES",
    "AUDIT_METRICS",
    "RELEASE_HEADLINE",
    "SIGNALS",
    "VERDICTS",
    "AttackResult",
    "AuditReport",
    "BlindResult",
    "Challenge",
    "ClassAuc",
    "CopyCheck",
    "MembershipMetrics",
    "OneRunBound",
    "PairedDifference",
    "ReferenceSignals",
    "SiteVerdict",
    "TprAtFpr",
    "accuracy_over_privacy",
    "adversary_of",
    "attack_score",
    "auc",
    "audit_epsilon",
    "audit_model",
    "blind_baseline",
    "build_challenge",
    "candidates",
    "choose_offline_a",
    "class_aucs",
    "closest_distance_score",
    "copy_check",
    "domias_kde_score",
    "epsilon_lower_bound",
    "from_metrics",
    "headline_key",
    "holm_reject",
    "lira_offline",
    "lira_online",
    "logit_scaled_confidence",
    "longest_list",
    "membership_metrics",
    "metric_names",
    "monte_carlo_score",
    "one_run_bound",
    "paired_difference",
    "pixels",
    "pooled_rows",
    "principal_components",
    "query_views",
    "reference_attack_score",
    "reference_signals",
    "report_from_scores",
    "rmia_offline",
    "rmia_online",
    "roc_points",
    "row_key",
    "site_challenge",
    "site_population",
    "site_verdict",
    "site_verdicts",
    "to_metrics",
    "tpr_at_fpr",
    "worst_site",
]
