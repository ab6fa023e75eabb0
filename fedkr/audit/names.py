"""How each figure of an audit is called on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fedkr.audit.attacks.with_references import KINDS
from fedkr.audit.statistics.membership import ROC_POINTS
from fedkr.audit.targets import RELEASE, row_key, row_names
from fedkr.config import REFERENCE_ATTACKS, RELEASE_ATTACKS, THRESHOLD_ATTACKS, AuditConfig

CANARY = "canary:"
INTERVAL = ("", "-low", "-high")
RATES = ("roc-fpr", "roc-tpr")
CLASS_AUCS = tuple(f"class-auc{end}" for end in INTERVAL)
# The bound follows from these and the study's delta, so that whoever reads them works it out again.
EPSILON_FIGURES = ("coins", "guesses", "correct", "reason")
_FIGURES = (
    *(f"{figure}{end}" for figure in ("auc", "balanced-accuracy") for end in INTERVAL),
    *("duplicates", "members", "nonmembers", "others"),
    *RATES,
)
_FPR = r"0\.[0-9]{1,9}|[1-9](\.[0-9]{1,5})?e-[0-9]{2}"

_ROW = rf"{'|'.join((*THRESHOLD_ATTACKS, *RELEASE_ATTACKS))}|({'|'.join(REFERENCE_ATTACKS)})@({'|'.join(KINDS)})"
# Every metric that an audit of any study may emit. A site that knows the study's options can be exact: metric_names.
AUDIT_METRICS = re.compile(
    rf"({CANARY})?({_ROW})"
    rf"/({'|'.join((*_FIGURES, *CLASS_AUCS))}|tpr-at-fpr-({_FPR})(-low|-high)?)"
    rf"|epsilon/({'|'.join(EPSILON_FIGURES)})"
)


def tpr_names(fprs: Iterable[float]) -> list[str]:
    """Return the names of the TPR figures at ``fprs``, with those of their limits."""
    return [f"tpr-at-fpr-{fpr:g}{end}" for fpr in fprs for end in INTERVAL]


def metric_names(config: AuditConfig) -> frozenset[str]:
    """Return exactly the names of the metrics that audits under ``config`` may emit, whatever the target."""
    rows = row_names("", config.attacks) + (row_names(RELEASE, ()) if RELEASE in config.targets else [])
    keys = [row_key(*names) for names in rows]
    figures = (*_FIGURES, *CLASS_AUCS, *tpr_names(config.fprs))
    planted = [f"{CANARY}{key}" for key in keys] if config.canaries else []
    names = {f"{key}/{figure}" for key in (*keys, *planted) for figure in figures}
    return frozenset(names | {f"epsilon/{figure}" for figure in EPSILON_FIGURES})


def longest_list(name: str, classes: int) -> int:
    """Return how many numbers the metric ``name`` may hold at most: 0 says that it is one number and no list.

    ROC axes are rising rates. Lists over classes hold a rate each, or -1 for a class with too few images.
    """
    figure = name.rpartition("/")[2]
    return ROC_POINTS if figure in RATES else classes if figure in CLASS_AUCS else 0
