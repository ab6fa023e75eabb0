"""The audit's part of ``results.json``: its rows and, all optional, what an audit measured beside them."""

from __future__ import annotations

from typing import Required

from typing_extensions import TypedDict

from fedkr.strict_json import Rate


class AttackFigures(TypedDict, total=False):
    """What one attack achieved, with 95 % intervals, beside its TPRs.

    ``references`` is none, direct, pipeline or released; ``unit`` is what the intervals resample: image or patient, and
    mixed over sites of which only some have patients.
    """

    target: Required[str]
    site: Required[str]
    attack: Required[str]
    references: str
    auc: Rate | None
    auc_low: Rate | None
    auc_high: Rate | None
    unit: str


class AuditRow(AttackFigures, total=False):
    """One attack on one target at one site, or at ``all sites``; ``roc`` is a list of [fpr, tpr].

    Attributes:
        kind: what kind of target it is, such as ``weights``: the name itself where it is not given.
        adversary: outsider (sees the final model), server (sees what each site sent) or owner (sees what never leaves).
        others: whether the references knew the other sites' releases.
        duplicates: images of both sides that were left out because the other side has the same.
        elsewhere: those that were left out because another site trains on the same; not there where none were.
    """

    kind: str
    adversary: str
    others: bool | None
    balanced_accuracy: Rate | None
    balanced_accuracy_low: float | None
    balanced_accuracy_high: float | None
    members: int
    nonmembers: int
    duplicates: int
    elsewhere: int
    headline: int
    roc: list[list[float]] | None


class BlindRow(TypedDict, total=False):
    """Members against non-members without a model; ``rejected`` (Holm over the sites) voids a site's audit.

    ``auc`` and ``p_value`` are by their images within a class, ``classes_p_value`` by their class shares.
    """

    site: Required[str]
    auc: Rate | None
    p_value: float | None
    classes_p_value: float | None
    rejected: bool


class AttackNames(TypedDict, total=False):
    """Where what was attacked, and how."""

    site: Required[str]
    target: Required[str]
    attack: str
    references: str


class PairedRow(AttackNames, total=False):
    """AUC of ``target`` minus that of ``other`` on one challenge set, with a 95 % interval."""

    other: Required[str]
    difference: float | None
    low: float | None
    high: float | None
    unit: str


class CopyRow(TypedDict, total=False):
    """Released images that are close to a member (``suspects``), the same of the holdout, and a test for copies.

    Attributes:
        verbatim: of the suspects, those equal to a member byte by byte.
        share, chance_share: of the released images, and of the holdout's, that are close to a member.
        members_found, nonmembers_found: those that a released image is close to.
        p_value: that no more members are found than non-members; ``flagged`` where it is rejected.
    """

    site: Required[str]
    released: int
    suspects: int
    verbatim: int
    share: float | None
    chance_share: float | None
    members: int
    members_found: int
    nonmembers: int
    nonmembers_found: int
    p_value: float | None
    flagged: int


class TwoSampleRow(TypedDict, total=False):
    """The test whether a site's release lies closer to members than to the holdout: its p-value, uncorrected."""

    site: Required[str]
    p_value: Required[float]


class EpsilonRow(AttackNames, total=False):
    """A lower bound on epsilon from one run, or the ``reason`` why there is none.

    ``largest`` is what this many guesses, all of them right, would have shown; ``mu`` and its ``gaussian_epsilon``
    suppose a Gaussian mechanism (:mod:`fedkr.audit.statistics.fdp`).
    """

    epsilon: float | None
    largest: float | None
    mu: float | None
    gaussian_epsilon: float | None
    delta: float | None
    confidence: float | None
    reason: str
    coins: int
    guesses: int
    correct: int


class CanaryRow(AttackFigures, total=False):
    """One attack on the planted images of a channel: those that a coin put in against those that it left out.

    ``channel`` is label or image; runs that knew of one only do not name it.
    """

    channel: str
    included: int
    excluded: int


class PatientRow(AttackFigures, total=False):
    """One attack on patients, each told by the image that looks most like a member's: how many took part or did not."""

    members: int
    nonmembers: int


class PerClassRow(AttackNames, total=False):
    """The headline attack's AUC within each class, by its label; null where a class has too few images."""

    classes: Required[list[int]]
    auc: Required[list[float | None]]
    low: Required[list[float | None]]
    high: Required[list[float | None]]
    unit: str


class VerdictRow(TypedDict, total=False):
    """'no leakage found', 'leakage found' or 'cannot tell', and why."""

    site: Required[str]
    target: Required[str]
    verdict: Required[str]
    reason: str


class AuditExtras(TypedDict, total=False):
    """What an audit measured beside its attacks' rows."""

    blind: list[BlindRow]
    paired: list[PairedRow]
    copies: list[CopyRow]
    two_sample: list[TwoSampleRow]
    epsilon: list[EpsilonRow]
    canaries: list[CanaryRow]
    patients: list[PatientRow]
    per_class: list[PerClassRow]
    verdicts: list[VerdictRow]
    worst_site: list[AuditRow]
    notes: list[str]
