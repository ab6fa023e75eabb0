"""What an audit found: rows of figures as ``results.json`` has them, and scores of single images that never leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedkr.audit.attacks.observed import Bools
from fedkr.audit.coins import guessed_coins
from fedkr.audit.statistics.membership import ENDS, PATIENT, Floats, membership_figures, roc_points, tpr_name, unit_of
from fedkr.audit.statistics.patients import strongest_of_each
from fedkr.audit.statistics.per_class import class_aucs
from fedkr.audit.subject import Subject
from fedkr.audit.targets import adversary_of, headline_key, row_key, row_names
from fedkr.config import CANARY_CHANNELS

Row = dict[str, Any]


@dataclass(frozen=True)
class AuditReport:
    """All attacks on one target at one site.

    Attributes:
        rows: of ``results["audit"]``, one an attack and kind of reference models.
        canaries: of ``audit_extras``: each attack on the planted images of each channel, those put in against those
            left out.
        patients: of ``audit_extras``: each attack on patients as a whole, where the images have groups.
        per_class: of ``audit_extras``: the headline attack within each class, None where it has too few images.
        epsilon: of ``audit_extras``: how many coins the headline attack guessed right, from which the bound follows.
        two_sample: of ``audit_extras``: the test whether a release lies closer to members than to the holdout.
        scores: by row key, float64 ``[N]`` of members and then non-members, those that do not count among them. Figures
            of single images: they stay at the site, and no document holds them.
        canary_scores: by row key, float64 ``[m]``; the same holds.
        counted: bool ``[N]``, of which of them the figures are.
    """

    target: str
    rows: list[Row]
    canaries: list[Row] = field(default_factory=list)
    patients: list[Row] = field(default_factory=list)
    per_class: list[Row] = field(default_factory=list)
    epsilon: list[Row] = field(default_factory=list)
    two_sample: list[Row] = field(default_factory=list)
    scores: Mapping[str, Floats] = field(default_factory=dict, compare=False, repr=False)
    canary_scores: Mapping[str, Floats] = field(default_factory=dict, compare=False, repr=False)
    counted: Bools = field(default_factory=lambda: np.ones(0, bool), compare=False, repr=False)

    @property
    def headline(self) -> Row | None:
        """The row named beforehand; None where its attack had no reference models."""
        return next((row for row in self.rows if row["headline"]), None)


def report_from_scores(
    scores: Mapping[str, Floats], subject: Subject, others: Mapping[str, bool] | None = None
) -> AuditReport:
    """Return all figures of attacks that have already scored the candidates, of a model or of a release.

    Scores are float ``[N]`` on all candidates by row key (:func:`~fedkr.audit.targets.row_key`); attacks that are not
    configured for the target are ignored, and so are candidates that do not count for it (``subject.counted``).
    ``others`` says of each kind of reference models whether they trained on the other sites' releases.

    Raises:
        UserError: no member or no non-member counts.
    """
    quoted, natural = headline_key(subject.target, subject.config.headline, scores), subject.challenge.natural
    mask, subject = subject.mask, subject.narrowed
    kept, planted = dict[str, Floats](), dict[str, Floats]()
    report = AuditReport(subject.target, [], scores=kept, canary_scores=planted, counted=mask[:natural])
    for attack, kind in row_names(subject.kind, subject.config.attacks):
        key = row_key(attack, kind)
        if key not in scores:
            continue
        names = {"target": subject.target, "site": subject.site, "attack": attack, "references": kind}
        kept[key], counted = scores[key][:natural], scores[key][mask]
        knew = None if kind == "none" else (others or {}).get(kind, False)
        report.rows.append(
            names
            | {"kind": subject.kind, "adversary": adversary_of(subject.kind), "others": knew}
            | _natural_figures(counted, subject)
            | {"headline": int(key == quoted)}
            | {"roc": [list(point) for point in roc_points(*_sides(counted, subject))]}
        )
        if of_channels := _canary_figures(counted, subject):
            report.canaries.extend(names | figures for figures in of_channels)
            planted[key] = scores[key][natural:]
        if (of_patients := _patient_figures(counted, subject)) is not None:
            report.patients.append(names | of_patients)
        if key == quoted:
            report.per_class.append(names | _class_figures(counted, subject))
            if (guessed := guessed_coins(counted, subject)) is not None:
                report.epsilon.append(names | guessed)
    return report


def _sides(scores: Floats, subject: Subject) -> tuple[Floats, Floats]:
    split = len(subject.challenge.members)
    return scores[:split], scores[split : subject.challenge.natural]


def _natural_figures(scores: Floats, subject: Subject) -> Row:
    fprs, (members, nonmembers) = subject.config.fprs, subject.challenge.sides
    groups = members.groups, nonmembers.groups
    figures = membership_figures(*_sides(scores, subject), fprs=fprs, groups=groups, **subject.resampling)
    removed = {"duplicates": subject.challenge.duplicates}
    removed |= {"elsewhere": subject.challenge.elsewhere} if subject.challenge.elsewhere else {}
    return figures | removed


def _canary_figures(scores: Floats, subject: Subject) -> list[Row]:
    """Return the figures on each channel's canaries, none where there are none of one side."""
    canaries, config, rows = subject.challenge.canaries, subject.config, list[Row]()
    if canaries is None:
        return rows
    own, included = scores[subject.challenge.natural :], canaries.included
    for channel in CANARY_CHANNELS:
        chosen = canaries.of_channel(channel)
        sides = own[chosen & included], own[chosen & ~included]
        if not all(map(len, sides)):
            continue
        found = membership_figures(*sides, fprs=config.fprs, **subject.resampling)
        # Half of so few images chooses no threshold worth quoting.
        names = [f"{name}{end}" for name in ("auc", *map(tpr_name, config.fprs)) for end in ENDS]
        counts = {"included": found["members"], "excluded": found["nonmembers"]}
        rows.append({"channel": channel, "unit": found["unit"]} | {name: found[name] for name in names} | counts)
    return rows


def _patient_figures(scores: Floats, subject: Subject) -> Row | None:
    """Return the figures on patients, or None where the images have no groups."""
    members, nonmembers = subject.challenge.sides
    if members.groups is None or nonmembers.groups is None:
        return None
    of_members, of_nonmembers = _sides(scores, subject)
    found = membership_figures(
        strongest_of_each(of_members, members.groups),
        strongest_of_each(of_nonmembers, nonmembers.groups),
        fprs=subject.config.fprs,
        **subject.resampling,
    )
    return {name: value for name, value in found.items() if "balanced_accuracy" not in name} | {"unit": PATIENT}


def _class_figures(scores: Floats, subject: Subject) -> Row:
    challenge = subject.challenge
    found = class_aucs(scores[: challenge.natural], *challenge.sides, **subject.resampling)
    lists = {name: [one and one[i] for one in found] for i, name in enumerate(("auc", "low", "high"))}
    unit = unit_of((challenge.members.groups, challenge.nonmembers.groups))
    return {"classes": list(range(len(found))), "unit": unit} | lists
