"""The report's sentences: what the numbers say in plain language, and no more than they say."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import scipy

from fedkr.audit.verdict import CHANCE, TO_BE_FOUND, VERDICTS
from fedkr.config import BACKENDS
from fedkr.report.audit_fields import AuditRow
from fedkr.report.results import Results, StrategyDifference, StrategyResult
from fedkr.report.selection import (
    guaranteed_weights,
    headline_rows,
    paired_differences,
    release_guarantees,
    strategy_by_name,
    verdict_rows,
)
from fedkr.report.wording import (
    attack_with_references,
    decimal,
    listing,
    percent,
    plural,
    points_interval,
    strategy_label,
    target_label,
)
from fedkr.site_name import ALL_SITES

NAMED_SITES = 5
NOT_COMPARED = (
    "Nobody compared the test images with the sites' images, or these with each other: in a deployment they never meet."
)
LEVEL_POINTS = 0.05


def accuracy_verdict(results: Results) -> str:
    """Return one sentence that sets the student against every other strategy, in points of accuracy."""
    student = strategy_by_name(results, "fedkr")
    sites = len(results.get("sites", []))
    where = f"With {plural(sites, 'site')}, " if sites else ""
    if student is None or student.get("accuracy") is None:
        return where + _without_student(results["strategies"])
    accuracy = student["accuracy"] or 0.0
    others = [_difference(accuracy, other) for other in results["strategies"] if other["name"] != "fedkr"]
    comparison = listing([text for text in others if text])
    return (
        f"{where}the student trained on shared synthetic images reaches {percent(accuracy)} accuracy "
        f"on the global test images{comparison and ': '}{comparison}."
    )


def _without_student(strategies: list[StrategyResult]) -> str:
    known = [s for s in strategies if s.get("accuracy") is not None]
    if not known:
        return "no strategy has an accuracy."
    best = max(known, key=lambda s: s["accuracy"] or 0.0)
    return f"{strategy_label(best['name'])} has the highest accuracy of the comparison, {percent(best['accuracy'])}."


def _difference(accuracy: float, other: StrategyResult) -> str:
    reference = other.get("accuracy")
    if reference is None:
        return ""
    names = {
        "local": "the mean of the sites' own models",
        "fedkr-dda": "the mean of the sites' models of their own and chosen images",
        "fedkr+ft": "the mean of the fine-tuned students",
        "centralised": "training on all images in one place",
    }
    name = names.get(other["name"], strategy_label(other["name"]))
    points = 100 * (accuracy - reference)
    if abs(points) < LEVEL_POINTS:
        return f"level with {name}"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {name}"


def scored_on(results: Results) -> str:
    """Return what is known of the images that the comparison is scored on, and no more than was checked."""
    same = "All strategies are scored on the same test images."
    facts = results.get("data")
    leaks = facts["leaks"] if facts else None
    if facts is None and results.get("backend") in BACKENDS:
        return f"{same} Whether a site trained or selected on equal ones was not recorded."
    if leaks is None:
        return (
            f"{NOT_COMPARED} Each site compares its own test images with those that it trains and selects on, and "
            "tells its own operator."
        )
    taken = leaks.get("removed") is not None
    clear = [] if leaks["images"] and not taken else ["none equals an image that a site trained or selected on"]
    if leaks["patients"] is None:
        clear.append("whether a patient is on both sides is not known")
    elif not leaks["patients"] or taken:
        clear.append("no patient is on both sides")
    text = "; ".join(clear)
    return f"{same} {text[:1].upper()}{text[1:]}." if text else same


def uncertainty(results: Results) -> str:
    """Return what the comparison cannot tell apart: the test set's size and the single seed."""
    text = "One seed: another one redraws partition, split and training, and moves every figure."
    if paired := paired_differences(results):
        return f"{text} {_told_apart(paired)}"
    student = strategy_by_name(results, "fedkr")
    count, accuracy = results.get("test_images", 0), student.get("accuracy") if student else None
    if count and accuracy is not None:
        half = 100 * wilson_half_width(accuracy, count)
        text += f" The {count:,} test images alone leave about ±{half:.1f} points (95 %) around an accuracy."
    return text


def _told_apart(paired: Mapping[str, Mapping[str, StrategyDifference]]) -> str:
    """Return from which others the test images tell the student by accuracy."""
    by_other = {strategy_label(other): found["accuracy"] for other, found in paired.items() if "accuracy" in found}
    apart = {name: row for name, row in by_other.items() if row["difference_low"] > 0 or row["difference_high"] < 0}
    level = listing([name for name in by_other if name not in apart])
    if not apart:
        return f"Paired on these test images, accuracy does not tell the student from {level} (95 %)."
    told = listing([f"{name} ({points_interval(row)} points)" for name, row in apart.items()])
    untold = f", not from {level}" if level else ""
    return f"Paired on these test images, accuracy tells the student from {told}{untold} (95 %, each by itself)."


def wilson_half_width(fraction: float, count: int) -> float:
    """Return half the width of Wilson's 95 % score interval for ``fraction`` of ``count`` trials (Wilson 1927)."""
    interval = scipy.stats.binomtest(round(fraction * count), count).proportion_ci(method="wilson")
    return float(interval.high - interval.low) / 2


def audit_verdict(results: Results) -> str:
    """Return what the headline attacks found on the student and the released images, and if they can find anything."""
    rows = headline_rows(results)
    if not rows:
        if guaranteed_weights(results) or release_guarantees(results):
            return "No audit was run: of what these models reveal, no more is known than what is proven of some of it."
        return "No audit was run: nothing is known about what these models reveal."
    known = [row for row in rows if row.get("auc") is not None]
    if not known:
        return "The audit has no figure for the headline attack."
    by_target = {name: [row for row in known if row["target"] == name] for name in ("student", "release")}
    chosen = by_target["student"] or [row for row in known if row["target"] == known[0]["target"]]
    target = target_label(chosen[0]["target"], results)
    parts = [
        f"Against the {target}, the headline attack ({attack_with_references(chosen[0])}) tells training images from "
        f"held-out ones with an AUC {_span(chosen)} at the sites (0.5 is guessing).",
        _judged(chosen[0]["target"], results),
    ]
    released = by_target["release"]
    if released and released != chosen:
        parts.append(
            f"Against the released images, which the server sees ({attack_with_references(released[0])}): AUC "
            f"{_span(released)}. {_judged('release', results)}"
        )
    return " ".join(filter(None, [*parts, copies_found(results), _power(rows)]))


def copies_found(results: Results) -> str:
    """Return in which releases the copy check found near-copies of members, nothing where in none."""
    rows = [row for row in results.get("audit_extras", {}).get("copies", []) if row.get("flagged")]
    if not rows:
        return ""
    if len(rows) > NAMED_SITES:
        return f"The copy check finds near-copies of members in the releases of {len(rows)} sites."
    told = [
        f"{row['site']} ({row.get('suspects', 0):,} of {row.get('released', 0):,} images, near "
        f"{row.get('members_found', 0):,} of {row.get('members', 0):,} members)"
        for row in rows
    ]
    return f"The copy check finds near-copies of members in the release of {listing(told)}."


def most_exposed(results: Results) -> tuple[float, str] | None:
    """Return the highest headline AUC at a site, on the student or on its released images, and on which of them."""
    shared = [row for row in headline_rows(results) if row["target"] in ("student", "release")]
    found = [(auc, target_label(row["target"], results)) for row in shared if (auc := row.get("auc")) is not None]
    return max(found, default=None)


def _span(rows: list[AuditRow]) -> str:
    aucs = [row["auc"] or 0.0 for row in rows]
    return f"of {decimal(aucs[0])}" if len(aucs) == 1 else f"between {decimal(min(aucs))} and {decimal(max(aucs))}"


def _judged(target: str, results: Results) -> str:
    verdicts = [row for row in verdict_rows(results) if row["target"] == target and row["site"] != ALL_SITES]
    parts = []
    for verdict in VERDICTS:
        rows = [row for row in verdicts if row["verdict"] == verdict]
        reasons = {row["reason"] for row in rows if row.get("reason")}
        if rows:
            reason = f" ({reasons.pop()})" if len(reasons) == 1 else ""
            parts.append(f"{verdict} {_places([row['site'] for row in rows])}{reason}")
    return f"By the rule that was set beforehand: {'; '.join(parts)}." if parts else ""


def _places(sites: list[str]) -> str:
    return f"at {listing(sites)}" if len(sites) <= NAMED_SITES else f"at {len(sites)} sites"


def _power(rows: list[AuditRow]) -> str:
    known = [row for row in rows if row.get("auc") is not None]
    target = next((name for name in TO_BE_FOUND if any(row["target"] == name for row in known)), None)
    if target is None:
        return ""
    controls = [row for row in known if row["target"] == target]
    detected = sum((row.get("auc_low") or 0.0) > CHANCE for row in controls)
    mean = decimal(fmean(row["auc"] or 0.0 for row in controls), 2)
    what = "teachers" if target == "teacher" else "overfitted classifiers"
    if detected == 0:
        return (
            f"The same attack does not find the sites' own {what} either (mean AUC {mean}), "
            "so it has little power here: read low figures as 'cannot tell'."
        )
    return (
        f"As a control, the {what}, which never leave their sites, are detected at {detected} of "
        f"{len(controls)} sites (mean AUC {mean})."
    )
