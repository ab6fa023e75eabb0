"""The audit's words: who could mount an attack, and how a row and each of its figures is called on the wire."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from fedkr.audit.attacks.calibrated import KINDS
from fedkr.audit.statistics.membership import ROC_POINTS
from fedkr.config import REFERENCE_ATTACKS, RELEASE_ATTACKS, THRESHOLD_ATTACKS, AuditConfig

RELEASE = "release"
# Named beforehand: nearest neighbours in feature space find copies and near-copies alike, whatever the image's size.
RELEASE_HEADLINE = "distance-features"
# Trained on one site's images alone, directly or by its releases: so are their references.
OF_ONE_SITE = frozenset({"teacher", "local", "site-student"})
# Everybody else sees the final model only.
_ADVERSARIES = {"site-student": "server", "update": "server", RELEASE: "server", "teacher": "owner", "local": "owner"}

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


def adversary_of(target: str) -> str:
    """Return who sees what is audited: ``outsider``, ``server``, or only its ``owner``."""
    return _ADVERSARIES.get(target, "outsider")


def row_key(attack: str, references: str) -> str:
    """Return a row's name on the wire: the attack, and ``@`` with the kind of its reference models if it has any."""
    return attack if references == "none" else f"{attack}@{references}"


def row_names(target: str, attacks: Sequence[str]) -> list[tuple[str, str]]:
    """Return (attack, references) of every row that an audit of ``target`` may have, in the order of the report."""
    if target == RELEASE:
        return [(attack, "none") for attack in RELEASE_ATTACKS]
    return [(a, kind) for a in attacks for kind in (KINDS if a in REFERENCE_ATTACKS else ("none",))]


def headline_key(target: str, headline: str, present: Collection[str]) -> str | None:
    """Return the key of the row to quote: the attack named beforehand with the strongest references that are there.

    A release has no model to attack, so that its headline is :data:`RELEASE_HEADLINE`.
    """
    attack = RELEASE_HEADLINE if target == RELEASE else headline
    keys = [row_key(attack, kind) for kind in (*reversed(KINDS), "none")]
    return next((key for key in keys if key in present), None)


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
