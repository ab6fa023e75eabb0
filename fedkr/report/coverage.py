"""What the audit tested, and on how much: a verdict means no more than this list."""

from __future__ import annotations

from fedkr.audit.targets import OF_ONE_SITE, OF_RELEASES, RELEASED
from fedkr.audit.verdict import CONTROL_WORDS
from fedkr.config import ATTACKS, CALIBRATED_ATTACKS, PIXELS
from fedkr.report.audit_fields import AuditRow
from fedkr.report.canaries import CHANNEL_MEANING, planted, planted_in_words
from fedkr.report.results import Results, SiteRecycling
from fedkr.report.selection import (
    ADVERSARIES,
    audited_sites,
    audited_targets,
    headline_rows,
    references_kind,
    target_kinds,
)
from fedkr.report.wording import (
    ADVERSARY_MEANING,
    RELEASE_ATTACK_MEANING,
    attack_label,
    fpr_label,
    intervals_by,
    listing,
    measured_fprs,
    plural,
    span,
    target_label,
    tpr_figures,
)
from fedkr.site_name import ALL_SITES

# How each kind of reference models is made.
MADE_BY = {
    "direct": "classifiers trained on random halves of its members and holdout",
    "pipeline": "teacher, generator and student repeated on random halves, with checkpoint and sampling fixed from the "
    "real run",
}
# The same of what an image's distance to a release is compared with.
RELEASE_REFERENCES = {
    RELEASED: "what the other sites released, as any server has it",
    "pipeline": "what the site's own pipeline makes of random halves of its members and holdout",
}

NO_REFERENCES = (
    "attacks with reference models, which are stronger: without them, low figures rule out nothing and the chance "
    "differences in difficulty between members and holdout stay in every figure"
)
# Where one process deals out all sites' images, each site knows which of its own another trains on.
SEEING = ("inline", "ray")
NEVER_TESTED = [
    "an attacker who takes part and poisons what is trained, or who asks for many releases",
    "reconstruction of images and inference of attributes: the attacks only ask whether an image was trained on",
    "another seed: partition, training and sampling were drawn once",
]


def tested(results: Results) -> dict[str, str]:
    """Return, by topic, what the audit did."""
    rows = results.get("audit", [])
    topics = {**_adversaries(results), "Attacks": _attacks(rows), **_on_releases(results)}
    topics |= {"Reference models": _references(results)}
    topics |= {"Images": _images(results), **_patients(results), **_intervals(rows)}
    topics |= {"Low false-positive rates": _resolution(results)}
    return topics | _controls(results)


def not_tested(results: Results) -> list[str]:
    """Return what the audit's verdicts say nothing about."""
    rows, extras = results.get("audit", []), results.get("audit_extras", {})
    kinds, references = target_kinds(results), {references_kind(row) for row in rows}
    run = {row["attack"] for row in rows}
    left_out = [attack_label(attack) for attack in ATTACKS if attack not in run]
    coins = any("coins" in row for row in extras.get("epsilon", []))
    gaps = {
        NO_REFERENCES: not references & MADE_BY.keys(),
        "references that repeat the whole pipeline, the closest to how a student is made": "direct" in references
        and "pipeline" not in references,
        f"attacks left out: {', '.join(left_out)}": bool(references & MADE_BY.keys() and left_out),
        "the released images themselves": "release" not in kinds,
        "what the server can make of one site alone: a student of its releases, its last weights": not kinds
        & {"site-student", "update", "rounds"},
        "what a site sent in earlier rounds of shared weights: its last weights alone were attacked": "update" in kinds
        and "rounds" not in kinds,
        "canaries, which show the worst case that averages hide": not planted(results),
        **{f"canaries of the {name} channel ({what})": _lacks(results, name) for name, what in CHANNEL_MEANING.items()},
        "images of classes that a site releases no image of: its teacher learnt those that were in the training split, "
        "and its soft labels may show it": _undrawn(results) and bool(kinds & OF_RELEASES),
        "a lower bound on epsilon, which needs fair coins (audit.coins or canaries)": not coins,
        "held-out images that equal one that another site trains on: no site can see them, and they count as held out "
        "though models of all sites saw them": results.get("backend") not in SEEING or _older(rows),
        "whether a patient, rather than an image, took part": not extras.get("patients"),
        "the blind baseline: whether members and non-members differ without any model": not extras.get("blind"),
    }
    return [gap for gap, there in gaps.items() if there] + NEVER_TESTED


def _lacks(results: Results, channel: str) -> bool:
    """Whether canaries were planted, but none that would show what leaks through a channel."""
    return bool(planted(results)) and channel not in planted(results)


def _left_out(results: Results) -> list[SiteRecycling]:
    """Return what is known of the sites that release no image of some class."""
    return [site for site in results.get("recycling", {}).values() if site.get("left_out")]


def _undrawn(results: Results) -> bool:
    """Whether a teacher may have learnt a class that its site releases no image of; with a guarantee there is none."""
    return any("teacher" in site for site in _left_out(results))


def _older(rows: list[AuditRow]) -> bool:
    """Whether a run is of a fedkr that left no image out for what other sites train on, nor named any unit."""
    return any("unit" not in row for row in rows)


def _adversaries(results: Results) -> dict[str, str]:
    topics, audited = {}, audited_targets(results).items()
    for who in ADVERSARIES:
        if attacked := [target_label(target, results) for target, by in audited if by == who]:
            topics[f"Adversary: {who}"] = f"{ADVERSARY_MEANING[who]}. Attacked: {listing(attacked)}."
    return topics


def _attacks(rows: list[AuditRow]) -> str:
    run = list(dict.fromkeys(row["attack"] for row in rows))
    models = [attack_label(attack) for attack in run if attack not in RELEASE_ATTACK_MEANING]
    released = [attack_label(attack) for attack in run if attack in RELEASE_ATTACK_MEANING]
    parts = [f"on models: {', '.join(models)}"] if models else []
    parts += [f"on what was released: {', '.join(released)}"] if released else []
    headline = dict.fromkeys(attack_label(row["attack"]) for row in rows if row.get("headline"))
    named = f" Named beforehand as headline: {listing(list(headline))}." if headline else ""
    return f"{_sentence('; '.join(parts))}.{named}"


def _on_releases(results: Results) -> dict[str, str]:
    """Return what each attack on the released images and soft labels asks, in a plain sentence each."""
    rows = results.get("audit", [])
    run = {row["attack"] for row in rows}
    asked = [f"{attack_label(attack)}: {what}" for attack, what in RELEASE_ATTACK_MEANING.items() if attack in run]
    if results.get("audit_extras", {}).get("two_sample"):
        asked.append(
            "two-sample test: whether the release lies nearer to members than to the holdout, without references"
        )
    if not asked:
        return {}
    kinds = {references_kind(row) for row in rows if row["attack"] in CALIBRATED_ATTACKS}
    made = [what for kind, what in RELEASE_REFERENCES.items() if kind in kinds]
    calibrated = f" Other releases: {listing(made)}." if made else " No other release calibrates them."
    features = (results.get("study", {}).get("audit") or {}).get("features", PIXELS)
    public = f" Features: principal components of what {features} sees, a public network."
    seen = "" if features == PIXELS else public
    return {"Attacks on what was released": f"{_sentence('; '.join(asked))}.{calibrated}{seen}"}


def _references(results: Results) -> str:
    rows = results.get("audit", [])
    options = results.get("study", {}).get("audit") or {}
    kinds = {references_kind(row) for row in rows}
    counts = {kind: options.get(f"{kind}_references") or "" for kind in MADE_BY}
    parts = [f"{counts[kind]} {kind} ones a site: {how}".lstrip() for kind, how in MADE_BY.items() if kind in kinds]
    if not parts:
        return "No reference models."
    pooled = [row for row in rows if row.get("kind", row["target"]) not in OF_ONE_SITE and row["site"] != ALL_SITES]
    alone = list(dict.fromkeys(row["site"] for row in pooled if row.get("others") is False))
    known = f" Without the other sites' releases at {listing(alone)}, though the target knew them." if alone else ""
    return f"{_sentence('; '.join(parts))}. {_used(results)}{known}"


def _used(results: Results) -> str:
    """Say which kind the headline figures rest on, by target."""
    sentences = []
    for kind in MADE_BY:
        rows = [row for row in headline_rows(results) if references_kind(row) == kind]
        if labels := dict.fromkeys(target_label(row["target"], results) for row in rows):
            sentences.append(f"Headline by {kind} ones: {listing(list(labels))}.")
    return " ".join(sentences)


def _images(results: Results) -> str:
    rows = headline_rows(results)
    # Of what is trained on images themselves, for which they all count.
    sizes = {row["site"]: row for row in sorted(rows, key=lambda row: row.get("members", 0) + row.get("nonmembers", 0))}
    if not sizes:
        return "Not told."
    members = [row.get("members", 0) for row in sizes.values()]
    others = [row.get("nonmembers", 0) for row in sizes.values()]
    duplicates = sum(row.get("duplicates", 0) for row in sizes.values())
    removed = f" {duplicates:,} exact duplicates between the two were taken out." if duplicates else ""
    elsewhere = sum(max(row.get("elsewhere", 0) for row in rows if row["site"] == site) for site in sizes)
    if elsewhere:
        removed += f" {elsewhere:,} that another site trains on do not count for models of all sites."
    if _left_out(results):
        removed += " Classes that a site releases no image of do not count for its release, nor for the students."
    return (
        f"{span(members)} members (trained on) and {span(others)} non-members (holdout, never trained or selected "
        f"on) at each of {plural(len(sizes), 'site')}.{removed}"
    )


def _patients(results: Results) -> dict[str, str]:
    rows = [row for row in results.get("audit_extras", {}).get("patients", []) if row["site"] != ALL_SITES]
    if not rows:
        return {}
    members, others = [row.get("members", 0) for row in rows], [row.get("nonmembers", 0) for row in rows]
    sites = plural(len({row["site"] for row in rows}), "site")
    return {
        "Patients": f"{span(members)} patients who were trained on and {span(others)} who were held out at each of "
        f"{sites}, each told by the image that looks most like a member's."
    }


def _intervals(rows: list[AuditRow]) -> dict[str, str]:
    text = intervals_by(row for row in rows if row["site"] != ALL_SITES)
    return {"Intervals": f"95 %, {text}."} if text else {}


def _resolution(results: Results) -> str:
    rows, sites = headline_rows(results), audited_sites(results)
    parts = []
    for fpr in measured_fprs(rows):
        able = {row["site"] for row in rows if tpr_figures(row, fpr)[0] is not None}
        where = "every site" if len(able) == len(sites) else f"{len(able)} of {len(sites)} sites"
        parts.append(f"{fpr_label(fpr)} at {where}")
    resolvable = f"Resolvable: {'; '.join(parts)}. Elsewhere there are fewer than 1 / FPR non-members."
    return resolvable if parts else "Not measured."


def _controls(results: Results) -> dict[str, str]:
    extras = results.get("audit_extras", {})
    topics = {}
    attacked = {row["target"] for row in results.get("audit", [])}
    if controls := [words for name, words in CONTROL_WORDS.items() if name in attacked]:
        topics["Positive control"] = f"The same attack must find {listing(controls)}. They never leave the site."
    if blind := extras.get("blind"):
        topics["Negative control"] = (
            f"A classifier that sees images and no model, and a test of class shares, at {len(blind)} sites."
        )
    if counts := planted(results):
        topics["Canaries"] = planted_in_words(counts)
    if coins := [row["coins"] for row in extras.get("epsilon", []) if "coins" in row]:
        topics["Coins"] = f"{span(coins)} fair coins a site for the bound on epsilon."
    return topics


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
