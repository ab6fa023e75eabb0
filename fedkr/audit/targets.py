"""What is audited: who sees each target, which attacks meet it, and which of them is quoted."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedkr.audit.attacks.with_references import KINDS
from fedkr.config import (
    CALIBRATED_ATTACKS,
    FUSED_ATTACK,
    LABEL_ONLY,
    REFERENCE_ATTACKS,
    RELEASE_ATTACKS,
    ROUND_ATTACK,
)

RELEASE = "release"
# Trained for the audit alone (fedkr.audit.control): without a pipeline, and by one.
CONTROL, PLANTED_CONTROL = CONTROLS = ("control", "control-student")
# What a site makes for itself of what others share; it stays there.
PERSONAL = "personal"
# A site's rounds of weight sharing together.
ROUNDS = "rounds"
# References of a release that are what other sites really released, beside those of KINDS.
RELEASED = "released"
# Of the attacks without references: nearest neighbours in feature space find copies and near-copies alike, whatever
# the image's size, and unit variance keeps brightness and contrast from drowning what is particular.
RELEASE_HEADLINE = "distance-features"
# Named beforehand, the first that could be run: what leaks is measured against what other releases say of the image.
RELEASE_HEADLINES = (
    f"{FUSED_ATTACK}@pipeline",
    "calibrated-pixels@pipeline",
    f"calibrated-pixels@{RELEASED}",
    RELEASE_HEADLINE,
)
# Kinds of what is trained on one site's images alone, directly or by its releases: so are their references.
OF_ONE_SITE = frozenset({"teacher", "local", "site-student", RELEASE, *CONTROLS})
# Kinds that come of weight sharing.
OF_WEIGHTS = frozenset({"weights", "update", ROUNDS})
# Kinds that come of nothing but what sites released: an image of a class that none was drawn of does not count for
# them, though the teacher that labelled the rest may have learnt it.
OF_RELEASES = frozenset({"student", "site-student", RELEASE})
# Everybody else sees the final model only.
_ADVERSARIES = {
    **dict.fromkeys(("site-student", "update", ROUNDS, RELEASE), "server"),
    **dict.fromkeys(("teacher", "local", PERSONAL, *CONTROLS), "owner"),
}


def adversary_of(kind: str) -> str:
    """Return who sees a kind of target: ``outsider``, ``server``, or only its ``owner``."""
    return _ADVERSARIES.get(kind, "outsider")


def row_key(attack: str, references: str) -> str:
    """Return a short name of an attack with a kind of reference models: ``loss``, ``rmia@direct``."""
    return attack if references == "none" else f"{attack}@{references}"


def attacks_on(kind: str, attacks: Sequence[str]) -> list[str]:
    """Return which attacks meet a kind of model, of those that a study names; a release has others.

    The rounds of a site are many models to ask, of which ``label-only`` would ask far too much, and meet an attack of
    their own.
    """
    return [*(name for name in attacks if name != LABEL_ONLY), ROUND_ATTACK] if kind == ROUNDS else [*attacks]


def row_names(kind: str, attacks: Sequence[str]) -> list[tuple[str, str]]:
    """Return (attack, references) of every row that an audit of a ``kind`` may have, in the order of the report."""
    if kind == RELEASE:
        by_references = [(attack, kind) for attack in CALIBRATED_ATTACKS for kind in (RELEASED, "pipeline")]
        return [(attack, "none") for attack in RELEASE_ATTACKS] + by_references + [(FUSED_ATTACK, "pipeline")]
    met = attacks_on(kind, attacks)
    return [(a, references) for a in met for references in (KINDS if a in REFERENCE_ATTACKS else ("none",))]


def headline_key(target: str, headline: str, present: Collection[str]) -> str | None:
    """Return the key of the row to quote: the attack named beforehand with the strongest references that are there.

    A release has no model to attack, so that its headline is one of :data:`RELEASE_HEADLINES`.
    """
    of_model = [row_key(headline, kind) for kind in (*reversed(KINDS), "none")]
    keys = RELEASE_HEADLINES if target == RELEASE else of_model
    return next((key for key in keys if key in present), None)
