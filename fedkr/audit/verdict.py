"""The verdict on one model at one site, or at all: a pass takes strong attacks that find nothing where they could.

All claims of an audit, over its sites and targets, are one family: Holm's procedure keeps the chance that any of them
is called leakage by mistake at :data:`LEVEL`, however many sites there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fedkr.audit.claims import Claim, auc_claim, below_guessing, tpr_claim, upper_limit
from fedkr.audit.statistics.blind import holm_reject
from fedkr.audit.statistics.pooling import pooled_rows
from fedkr.audit.targets import CONTROL, CONTROLS, PLANTED_CONTROL, RELEASE
from fedkr.config import CALIBRATED_ATTACKS, ROUND_ATTACK
from fedkr.site_name import ALL_SITES

NONE_FOUND, FOUND, UNCLEAR = VERDICTS = ("no leakage found", "leakage found", "cannot tell")
# An AUC of 0.5 is guessing; a pass takes an interval that ends here at the latest.
CHANCE, LARGEST_PASS = 0.5, 0.55
# Of all claims together.
LEVEL = 0.05
STRONGEST = "rmia"
# Beside it, the first of these that was run. One variance for all images first: with fewer than some 64 references one
# for each image is too noisy (Carlini et al. 2022, section VI; measured again in simulations/results/audit.md).
LIRA = ("lira-online-fixed", "lira-online", "lira-offline-fixed", "lira-offline")
# What is to be found, the strongest first: a teacher may have been stopped before it knew its images.
TO_BE_FOUND = (CONTROL, "teacher")
CONTROL_WORDS = {
    CONTROL: "the classifier that was overfitted to the site's images",
    PLANTED_CONTROL: "the student of a release with planted images",
    "teacher": "the site's own teacher",
}
RELEASE_STUDENT = "site-student"
# Canaries that a generator draws again are found by the released image nearest to them. Which of them were put in is no
# matter of how near images usually lie, so that no other release has to say it.
IMAGE_CHANNEL, OUTLIER_ATTACK = "image", "distance-pixels"
# Kinds trained on releases: a direct reference never saw a generator, and would attack another kind of model.
NEEDS_PIPELINE = frozenset({"student", RELEASE_STUDENT, PLANTED_CONTROL})
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figures:
    """One attack on one target: the row to quote, and the rows of the sites that it rests on."""

    shown: Row
    sites: Sequence[Row]

    @property
    def attack(self) -> str:
        """The attack, with its references."""
        references = self.shown.get("references") or "none"
        return self.shown["attack"] if references == "none" else f"{self.shown['attack']}, {references} references"

    @cached_property
    def claims(self) -> list[Claim]:
        """That members stand out, on average and at a low FPR."""
        found = [auc_claim(self.shown, self.sites), tpr_claim(self.shown, self.sites)]
        return [Claim(f"{claim.figure} by {self.attack}", claim.p_value) for claim in found if claim is not None]


@dataclass
class Evidence:
    """What the verdict on one target at one site rests on.

    Attributes:
        named: the attacks that were named beforehand: the headline, LiRA beside RMIA, and for a release all that other
            releases calibrate, and those on the student of this site's releases.
        beside: further attacks on a release or on a site's rounds, which a pass needs to show nothing.
        canaries: the headline attack on images that were planted, where some were, those of each channel apart; on a
            release's outliers the nearest image's (:data:`OUTLIER_ATTACK`).
        patients: the headline attack on patients as a whole, where images have groups.
        closeness: of a release, the test whether it lies closer to members than to the holdout.
        control: the headline attack on what it must find there, or None.
        void: whether the blind baseline told members from non-members.
        untested: whether it gave no answer; a difference between the two could then hide a leak.
    """

    site: str
    target: str
    named: Sequence[Figures] = ()
    beside: Sequence[Figures] = ()
    canaries: Sequence[Claim] = ()
    patients: Sequence[Claim] = ()
    closeness: Sequence[Claim] = ()
    control: Figures | None = None
    void: bool = False
    untested: bool = False

    @cached_property
    def claims(self) -> list[Claim]:
        """All that is tested, in the family of the whole audit; nothing where the audit is void."""
        of_attacks = [claim for figures in self.named for claim in figures.claims]
        return [] if self.void else [*of_attacks, *self.canaries, *self.patients, *self.closeness]


@dataclass(frozen=True)
class SiteVerdict:
    """What the audit of one target at one site, or at all sites, comes to, and why."""

    site: str
    target: str
    verdict: str
    reason: str

    def as_row(self) -> dict[str, Any]:
        """Return the row of ``audit_extras.verdicts``."""
        return dict(vars(self))


@dataclass
class Blind:
    """What the blind baseline says: the sites where it was rejected, and those where it gave no answer."""

    void: Collection[str] = field(default_factory=list)
    untested: Collection[str] = field(default_factory=list)


def site_verdicts(
    rows: Iterable[Row],
    blind: Blind | None = None,
    canaries: Iterable[Row] = (),
    two_sample: Iterable[Row] = (),
    patients: Iterable[Row] = (),
) -> list[SiteVerdict]:
    """Return a verdict for every target at every site and, for several sites, over all of them.

    Args:
        rows: of ``results.json``; pooled ones are passed over.
        blind: where the audit is void.
        canaries: of ``audit_extras``.
        two_sample: likewise.
        patients: likewise; pooled ones are passed over.

    ``leakage found`` where Holm's procedure rejects a claim at :data:`LEVEL` over all claims of all sites and targets.

    ``no leakage found`` only where

    * RMIA and LiRA (with pipeline references for what was trained on releases) show nothing: the AUCs' upper limits,
      corrected for their number, are at most 0.55, and no claim of this target at this site has a p-value below
      :data:`LEVEL` over their number: neither AUC nor TPR at the lowest FPR that the non-members resolve, nor these of
      patients as a whole by the headline attack, nor planted canaries, nor any other attack on a release, nor the
      gain of a site's rounds (``round-gain``);
    * members do not score significantly *lower* either: then the two sides differ by something else;
    * RMIA detects the control, and the blind baseline was tested. The control is a classifier overfitted to the site's
      images; for what was trained on releases, a student of a release with planted images; where a study audits
      neither, the site's teacher.

    Everything else is ``cannot tell``. A release is attacked in two ways, and passes only where neither finds anything:
    by its images and soft labels, calibrated by other releases, and by RMIA through a student trained on that site's
    releases alone. The student of all sites is no substitute, since the other sites' images dilute what it learnt.
    """
    evidence = _all_evidence(list(rows), blind or Blind(), list(canaries))
    tests = {row["site"]: _closeness_claim(row) for row in two_sample}
    by_place = _figures_of_patients(list(patients), blind or Blind())
    for each in evidence:
        each.patients = _patient_claims(by_place.get((each.site, each.target), []), each.named)
        if each.target == RELEASE and each.site in tests:
            each.closeness = [tests[each.site]]
    family = [claim.p_value for each in evidence for claim in each.claims]
    rejected = iter(holm_reject(family, LEVEL))
    return [_judged(each, [c for c in each.claims if next(rejected)], len(family)) for each in evidence]


def _all_evidence(rows: list[Row], blind: Blind, canaries: list[Row]) -> list[Evidence]:
    own = [row for row in rows if row["site"] != ALL_SITES]
    places = dict.fromkeys((row["site"], row["target"]) for row in own)
    by_place = {place: [row for row in own if (row["site"], row["target"]) == place] for place in places}
    single = {place: [Figures(row, [row]) for row in found] for place, found in by_place.items()}
    evidence = [_evidence(place, single, blind, canaries) for place in places]
    valid = [row for row in own if row["site"] not in blind.void and row.get("auc") is not None]
    if len({row["site"] for row in valid}) > 1:
        targets = dict.fromkeys(row["target"] for row in valid)
        pooled = {(ALL_SITES, target): _pooled(target, valid) for target in targets}
        untested = [ALL_SITES] if {row["site"] for row in valid} & set(blind.untested) else []
        planted = [{**row, "site": ALL_SITES} for row in canaries if row["site"] not in blind.void]
        evidence += [_evidence(place, pooled, Blind(untested=untested), planted) for place in pooled]
    return evidence


def _figures_of_patients(rows: list[Row], blind: Blind) -> dict[tuple[str, str], list[Figures]]:
    """Return each attack on patients, by site and target, and over all valid sites where several have patients."""
    own = [row for row in rows if row["site"] != ALL_SITES]
    found: dict[tuple[str, str], list[Figures]] = {}
    for row in own:
        found.setdefault((row["site"], row["target"]), []).append(Figures(row, [row]))
    valid = [row for row in own if row["site"] not in blind.void]
    for target in {row["target"] for row in valid}:
        found[ALL_SITES, target] = [each for each in _pooled(target, valid) if len(each.sites) > 1]
    return found


def _patient_claims(found: Sequence[Figures], named: Sequence[Figures]) -> list[Claim]:
    quoted = named[0].shown if named else None
    claims = [claim for each in found if _is_of(each.shown, quoted) for claim in each.claims]
    return [Claim(f"of patients, {claim.figure}", claim.p_value) for claim in claims]


def _pooled(target: str, rows: list[Row]) -> list[Figures]:
    """Return each attack on a target over the sites that have it."""
    own = [row for row in rows if row["target"] == target]
    return [Figures(shown, [row for row in own if _is_of(row, shown)]) for shown in pooled_rows(own)]


def _evidence(
    place: tuple[str, str], figures: Mapping[tuple[str, str], list[Figures]], blind: Blind, canaries: Sequence[Row]
) -> Evidence:
    site, target = place
    named = _named(figures[place])
    of_student = _named(figures.get((site, RELEASE_STUDENT), [])) if target == RELEASE else []
    quoted = named[0].shown if named else None
    planted = [row for row in canaries if (row["site"], row["target"]) == place and canaries_claimed(row, quoted)]
    return Evidence(
        site,
        target,
        [*named, *of_student],
        beside=[each for each in figures[place] if each not in named and _is_beside(target, each)],
        canaries=[_canary_claim(row) for row in planted],
        control=_control(site, target, figures),
        void=site in blind.void,
        untested=site in blind.untested,
    )


def _is_beside(target: str, figures: Figures) -> bool:
    return target == RELEASE or figures.shown["attack"] == ROUND_ATTACK


def _control(site: str, target: str, figures: Mapping[tuple[str, str], list[Figures]]) -> Figures | None:
    """Return the headline attack on the control that stands behind a target's verdict."""
    kinds = {each.shown.get("kind", target) for each in figures[site, target]}
    released = target == RELEASE or bool(kinds & NEEDS_PIPELINE)
    for name in ((PLANTED_CONTROL,) if released else ()) + TO_BE_FOUND:
        if found := _named(figures.get((site, name), [])):
            return found[0]
    return None


def _named(found: Sequence[Figures]) -> list[Figures]:
    """Return the headline attack and those with the same references that stand beside it.

    Beside RMIA that is LiRA, beside the headline of a release all that other releases calibrate.
    """
    quoted = [each for each in found if each.shown.get("headline") and each.shown.get("auc") is not None]
    if not quoted:
        return quoted
    references, attack = quoted[0].shown.get("references"), quoted[0].shown["attack"]
    alike = [each for each in found if each.shown.get("references") == references and each is not quoted[0]]
    beside = {each.shown["attack"]: each for each in alike}
    if attack == STRONGEST:
        return quoted + [beside[name] for name in LIRA if name in beside][:1]
    return quoted + [beside[name] for name in CALIBRATED_ATTACKS if name in beside]


def canaries_claimed(row: Row, headline: Row | None) -> bool:
    """Whether a row of canaries is a claim: the headline attack's, on a release's outliers the nearest image's."""
    if row["target"] == RELEASE and row.get("channel") == IMAGE_CHANNEL:
        return bool(row["attack"] == OUTLIER_ATTACK)
    return _is_of(row, headline)


def _is_of(row: Row, other: Row | None) -> bool:
    """Whether a row is of the same attack as another, with the same references; of none where there is no other."""
    same = ("attack", "references")
    return other is not None and all((row.get(name) or "none") == (other.get(name) or "none") for name in same)


def _canary_claim(row: Row) -> Claim:
    counted = {**row, "members": row["included"], "nonmembers": row["excluded"]}
    claim = auc_claim(counted, [counted])
    of_channel = f" of the {row['channel']} channel" if "channel" in row else ""
    return Claim(f"{claim.figure} on planted canaries{of_channel}", claim.p_value)


def _closeness_claim(row: Row) -> Claim:
    return Claim("that the release lies closer to members than to held-out images (two-sample test)", row["p_value"])


def _judged(found: Evidence, rejected: Sequence[Claim], family: int) -> SiteVerdict:
    """Judge one target at one site, of whose claims Holm's procedure rejected some."""
    verdict = UNCLEAR
    if found.void:
        reason = (
            "members and non-members differ without any model (blind baseline or class shares), which voids the audit"
        )
    elif rejected:
        verdict, reason = FOUND, _found(found, rejected, family)
    elif not (reason := _against_a_pass(found)):
        verdict, reason = NONE_FOUND, _passed(found)
    return SiteVerdict(found.site, found.target, verdict, reason)


def _against_a_pass(found: Evidence) -> str:
    """Return the first thing that speaks against a pass, or an empty string."""
    checks = (_stands_out, _weakness, _limits, _hidden, _without_control)
    return next((reason for check in checks if (reason := check(found))), "")


def _found(found: Evidence, rejected: Sequence[Claim], family: int) -> str:
    first = min(rejected, key=lambda claim: claim.p_value)
    reason = f"{first.figure}, p = {first.p_value:.1g}, significant among all {family} claims of the audit (Holm)"
    if found.target != RELEASE and (found.named[0].shown.get("references") or "none") == "none":
        reason += "; without reference models, a holdout that happens to be harder looks the same"
    return reason


def _weakness(found: Evidence) -> str:
    """Return why these attacks cannot carry a pass, or an empty string."""
    by_model = [each for each in found.named if each.shown["target"] != RELEASE]
    if found.target == RELEASE and not any(each.shown["attack"] in CALIBRATED_ATTACKS for each in found.named):
        return "nothing was found, but a release passes only against attacks that other releases calibrate"
    if not found.named or not by_model:
        missing = "the student of its releases" if found.named and found.target == RELEASE else "the target"
        return f"the headline attack has no figure for {missing}"
    strongest = by_model[0].shown
    if strongest["attack"] != STRONGEST:
        return f"nothing was found, but only RMIA with reference models is strong enough to pass {found.target}"
    if strongest.get("kind", strongest["target"]) in NEEDS_PIPELINE and strongest.get("references") != "pipeline":
        return "nothing was found, but what is trained on releases passes only against pipeline references"
    if len(by_model) < 2:
        return "nothing was found, but a pass takes LiRA beside RMIA (audit.attacks)"
    return ""


def _stands_out(found: Evidence) -> str:
    claims = found.claims + [claim for each in found.beside for claim in each.claims]
    for claim in claims:
        if claim.p_value < LEVEL / len(claims):
            return f"{claim.figure} stands out here (p = {claim.p_value:.1g}), though not among all claims of the audit"
    for each in found.named:
        if (p_value := below_guessing(each.sites, each.shown)) < LEVEL / len(found.named):
            return (
                f"members score lower than non-members (AUC {each.shown['auc']:.3f}, p = {p_value:.1g}; "
                f"{each.attack}): the two sides may differ by something else than membership"
            )
    return ""


def _limits(found: Evidence) -> str:
    for each in found.named:
        if (limit := upper_limit(each.shown, 0.025 / len(found.named))) > LARGEST_PASS:
            return (
                f"the AUC, {each.shown['auc']:.3f}, is not significant, but its upper limit, {limit:.3f}, is not at "
                f"{LARGEST_PASS} or below ({each.attack})"
            )
    return ""


def _hidden(found: Evidence) -> str:
    """Return why a leak could be hidden all the same, or an empty string."""
    if any(len(each.claims) < 2 for each in found.named):
        return (
            f"nothing was found, but {found.named[0].shown['nonmembers']} held-out images show no TPR at any of "
            "audit.fprs, and an average hides the few images that are exposed"
        )
    return "nothing was found, but the blind baseline, which could void the audit, is missing" if found.untested else ""


def _without_control(found: Evidence) -> str:
    control = found.control
    if control is None or control.shown["attack"] != STRONGEST:
        return "nothing was found, but RMIA was not tried on a control, so its power here is unknown"
    if auc_claim(control.shown, control.sites).p_value > LEVEL / 2:
        if control.shown["target"] == found.target and found.target in CONTROLS:
            return "nothing was found in a model that must give its images away: this attack has no power here"
        return f"nothing was found, but RMIA does not detect {CONTROL_WORDS[control.shown['target']]} either"
    return ""


def _passed(found: Evidence) -> str:
    limits = [upper_limit(each.shown, 0.025 / len(found.named)) for each in found.named]
    claims = len(found.claims) + sum(len(each.claims) for each in found.beside)
    return (
        f"the AUCs end at {max(limits):.3f}, at most {LARGEST_PASS}, none of {claims} claims is significant, and the "
        f"control is detected ({_of_control(found.control)})"
    )


def _of_control(control: Figures | None) -> str:
    return f"{CONTROL_WORDS[control.shown['target']]}, {control.attack}" if control else ""
