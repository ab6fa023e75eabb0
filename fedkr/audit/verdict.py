"""The verdict on one model at one site: a pass takes a strong attack that finds nothing where it could."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedkr.audit.targets import RELEASE
from fedkr.site_name import ALL_SITES

NONE_FOUND, FOUND, UNCLEAR = VERDICTS = ("no leakage found", "leakage found", "cannot tell")
# An AUC of 0.5 is guessing; a pass takes an interval that ends here at the latest.
CHANCE, LARGEST_PASS = 0.5, 0.55
STRONGEST = "rmia"
CONTROL = "teacher"
RELEASE_STUDENT = "site-student"
# Kinds trained on releases: a direct reference never saw a generator, and would attack another kind of model.
NEEDS_PIPELINE = frozenset({"student", RELEASE_STUDENT})
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What the verdict on one target at one site rests on.

    Attributes:
        row: the target's headline row, or None.
        control: that of the site's teacher, or None.
        student: that of the student of this site's releases, or None; it counts for a release.
        void: whether the blind baseline told members from non-members.
        untested: whether it gave no answer; a difference between the two could then hide a leak.
    """

    site: str
    target: str
    row: Row | None
    control: Row | None = None
    student: Row | None = None
    void: bool = False
    untested: bool = False


@dataclass(frozen=True)
class SiteVerdict:
    """What the audit of one target at one site comes to, and why."""

    site: str
    target: str
    verdict: str
    reason: str

    def as_row(self) -> dict[str, Any]:
        """Return the row of ``audit_extras.verdicts``."""
        return dict(vars(self))


def site_verdicts(
    rows: Iterable[Row], void_sites: Collection[str] = (), untested_sites: Collection[str] = ()
) -> list[SiteVerdict]:
    """Return a verdict for every target at every site, from the headline rows of ``results.json`` (not pooled ones).

    The blind baseline was rejected at ``void_sites``, and gave no answer at ``untested_sites``.
    """
    headlines: dict[tuple[str, str], Row | None] = {}
    for row in rows:
        place = row["site"], row["target"]
        if row["site"] != ALL_SITES and (row.get("headline") or place not in headlines):
            headlines[place] = row if row.get("headline") else None
    return [
        site_verdict(
            Evidence(
                site,
                target,
                row,
                control=headlines.get((site, CONTROL)),
                student=headlines.get((site, RELEASE_STUDENT)),
                void=site in void_sites,
                untested=site in untested_sites,
            )
        )
        for (site, target), row in headlines.items()
    ]


def site_verdict(found: Evidence) -> SiteVerdict:
    """Judge one target at one site.

    ``leakage found`` where the headline AUC's lower limit is above 0.5. ``no leakage found`` only where its upper limit
    is at most 0.55, by RMIA (with pipeline references for what was trained on releases), the site's teacher, which
    knows its images by heart, is detected by RMIA (with direct references), and the blind baseline was tested.
    Everything else is ``cannot tell``.

    A release has no model. RMIA reaches it only through a student trained on that site's releases alone, and its own
    distance and density attacks are weak: a release passes only where both find nothing, and fails where either finds
    something. The student of all sites is no substitute, since the other sites' images dilute what it learnt.
    """
    if found.void:
        reason = "members and non-members differ without any model (blind baseline), which voids the audit"
        return SiteVerdict(found.site, found.target, UNCLEAR, reason)
    chain = [found.row, found.student] if found.target == RELEASE else [found.row]
    verdict, reason = _judged(chain, found.control, found.target)
    if verdict == NONE_FOUND and found.untested:
        verdict, reason = UNCLEAR, "nothing was found, but the blind baseline, which could void the audit, is missing"
    return SiteVerdict(found.site, found.target, verdict, reason)


def _judged(chain: list[Row | None], control: Row | None, target: str) -> tuple[str, str]:
    for row in chain:
        if row is not None and (row.get("auc_low") or 0.0) > CHANCE:
            return FOUND, _found(row)
    problem = _weakness(chain, target) or _without_control(control)
    if problem or control is None:
        return UNCLEAR, problem
    highest = max(row["auc_high"] for row in chain if row is not None)
    return NONE_FOUND, (
        f"the 95 % interval of the headline AUC ends at {highest:.3f}, at most {LARGEST_PASS}, "
        f"and the site's teacher is detected ({_attack(control)})"
    )


def _found(row: Row) -> str:
    reason = f"the 95 % interval of the headline AUC starts at {row['auc_low']:.3f}, above {CHANCE} ({_attack(row)})"
    if row.get("references", "none") == "none" and row["target"] != RELEASE:
        reason += "; without reference models, a holdout that happens to be harder looks the same"
    return reason


def _weakness(chain: list[Row | None], target: str) -> str:
    """Return why these rows cannot carry a pass, or an empty string."""
    for row in chain:
        if row is None or row.get("auc_high") is None:
            missing = "the student of its releases" if row is None and target == RELEASE and chain[0] else "the target"
            return f"the headline attack has no figure for {missing}"
        if row["auc_high"] > LARGEST_PASS:
            return (
                f"the 95 % interval of the headline AUC, {row['auc_low']:.3f} to {row['auc_high']:.3f}, holds {CHANCE} "
                f"but does not end at {LARGEST_PASS} or below ({_attack(row)})"
            )
    by_model = chain[-1]
    if by_model is None or by_model["attack"] != STRONGEST:
        return f"nothing was found, but only RMIA with reference models is strong enough to pass {target}"
    if by_model.get("kind", by_model["target"]) in NEEDS_PIPELINE and by_model.get("references") != "pipeline":
        return "nothing was found, but what is trained on releases passes only against pipeline references"
    return ""


def _without_control(control: Row | None) -> str:
    if control is None or control.get("auc_low") is None or control["attack"] != STRONGEST:
        return "nothing was found, but RMIA was not tried on the site's teacher, so its power here is unknown"
    if control["auc_low"] <= CHANCE:
        return "nothing was found, but the same attack does not detect the site's own teacher either"
    return ""


def _attack(row: Row) -> str:
    references = row.get("references", "none")
    return row["attack"] if references == "none" else f"{row['attack']}, {references} references"
