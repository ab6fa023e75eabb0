"""The privacy statement: what left the sites, what attacks found in it, and what may be concluded.

It is evidence for an assessment of anonymity, never the assessment, and claims no more than the audit shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedkr.audit.verdict import FOUND, LARGEST_PASS, LEVEL, NONE_FOUND, UNCLEAR
from fedkr.report.audit_fields import AuditRow
from fedkr.report.conclusions import copies_found
from fedkr.report.results import Results
from fedkr.report.selection import (
    OWNER,
    audited_targets,
    guaranteed_weights,
    headline_by_target,
    headline_patients,
    release_guarantees,
    verdict_counts,
    verdicts_by_site,
    void_sites,
)
from fedkr.report.wording import (
    auc_interval,
    listing,
    percent,
    plural,
    span,
    strategy_label,
    target_label,
    weight_sharers,
)
from fedkr.site_name import ALL_SITES


@dataclass(frozen=True)
class Finding:
    """One audited target in a line of the statement.

    Attributes:
        target, adversary: what was attacked, and who sees it.
        overall: the verdict over all sites; with one site, its own.
        sites: how many sites got which verdict.
        shown: the headline attack over all sites, or at the only one; None where it has no figure.
        worst: the site's row with the highest AUC, where there are several.
    """

    target: str
    adversary: str
    overall: str
    sites: Counter[str]
    shown: AuditRow | None
    worst: AuditRow | None


def left_the_sites(results: Results) -> list[str]:
    """Return what left the sites in this run, and whether a formal guarantee limits what it says."""
    parts = (_released, _weights, _figures, _counts, _unfinished, _oracle)
    return [*(line for part in parts if (line := part(results))), *_of_weights(results), *guarantees(results)]


def guarantees(results: Results) -> list[str]:
    """Return what is proven of the releases, and of what it is not."""
    weights = [*_of_weights(results)]
    known = release_guarantees(results)
    if not known:
        rest = "No differential privacy of anything else" if weights else "No differential privacy"
        return [f"{rest}: no proof bounds what attacks other than those below could learn."]
    told = dict.fromkeys(f"({p['epsilon']:g}, {p['delta']:g}) for one {p['unit']} more or less" for p in known)
    return [
        "Differential privacy, by the sites' own word: all that each released, and what is made of that alone, such as "
        f"the student, is {listing(list(told))} in its training split ({known[0]['mechanism']} mechanism).",
        "Not in that guarantee: figures, counts, attacks' rates and other contestants' models in this list, that a "
        "site's images changed between two studies, whether a request succeeds, and when an answer arrives. It takes "
        "the training split as given: how one image more at a site deals the others among its splits is outside of it.",
        "A hospital's noise comes from a secret of its own; a simulation's comes from the study's seed, so that it can "
        "be repeated, and who knows that seed can take it out.",
    ]


def _released(results: Results) -> str:
    images = [count for site in results.get("recycling", {}).values() if (count := site.get("images"))]
    # Those that contestants of the study's own asked for, in whatever numbers.
    others = set(results.get("releases", {})) - set(results.get("recycling", {}))
    told = [f"{span(images)} from each of {plural(len(images), 'site')}, {sum(images):,} in all"] if images else []
    told += [f"from {plural(len(others), 'site')}, in numbers that were not recorded"] if others else []
    if not told:
        return ""
    return (
        f"Synthetic images with soft labels: {'; '.join(told)}. They cannot be called back: whoever holds them can "
        "attack them at any later time."
    )


def _weights(results: Results) -> str:
    shared = [strategy_label(name) for name in weight_sharers(results)]
    return f"Model weights, round by round, for {listing(shared)}." if shared else ""


def _of_weights(results: Results) -> Iterator[str]:
    """Yield what is proven of weights that sites sent."""
    for row in guaranteed_weights(results):
        tuning = row.get("tuning", {})
        yield (
            f"Differential privacy of weights: all that each site sent for {strategy_label(row['name'])} is "
            f"({tuning['epsilon']:g}, {tuning['delta']:g}) for one image, or one patient where the data name "
            "patients, in its training split. How many of them a site has is taken as known, and who knows the "
            "study's seed can take the noise out."
        )


def _figures(results: Results) -> str:
    """Return that figures left: of each model on images of the sites, and of each attack on them."""
    return "Figures of models on the sites' own images, and the attacks' rates, each as the site's policy has it."


def _unfinished(results: Results) -> str:
    named = results.get("study", {}).get("strategy", {}).get("compare", [])
    lost = [strategy_label(name) for name in named if name not in {row["name"] for row in results["strategies"]}]
    return (
        f"What {listing(lost)} had sent before being left out, and does not stand above: not counted, and not attacked."
        if lost
        else ""
    )


def _counts(results: Results) -> str:
    sites = results.get("sites", [])
    told = sum(site.get("counts") is not None for site in sites)
    return f"Images per class and split: told by {told} of {plural(len(sites), 'site')}." if sites else ""


def _oracle(results: Results) -> str:
    centralised = any(row["kind"] == "oracle" for row in results.get("targets", []))
    return "In this simulation alone, all private images in one place, as a reference." if centralised else ""


def findings(results: Results) -> list[Finding]:
    """Return a line for each audited target, in the report's order."""
    counts, headlines, verdicts = verdict_counts(results), headline_by_target(results), verdicts_by_site(results)
    lines = []
    for target, adversary in audited_targets(results).items():
        rows = [row for row in headlines.get(target, []) if row.get("auc") is not None]
        single = [row for row in rows if row["site"] != ALL_SITES]
        worst = max(single, key=lambda row: row["auc"] or 0.0) if len(single) > 1 else None
        shown = rows[-1] if rows else None
        lines.append(Finding(target, adversary, _overall(verdicts.get(target, {})), counts[target], shown, worst))
    return lines


def patients_found(results: Results) -> list[str]:
    """Return the headline attack on patients, a target each: over all sites, or at the only one."""
    rows = {row["target"]: row for row in headline_patients(results)}
    return [
        f"{target_label(target, results)} {auc_interval(rows[target])}"
        for target in audited_targets(results)
        if target in rows
    ]


def copy_check(results: Results) -> str:
    """Return how many released images the copy check looked at, and what it found; nothing where there was none."""
    rows = results.get("audit_extras", {}).get("copies", [])
    looked = sum(row.get("released", 0) for row in rows)
    found = copies_found(results) or f"It finds near-copies of members at none of {plural(len(rows), 'site')}."
    return f"A copy check compared {looked:,} released images with the sites' members. {found}" if rows else ""


def verdicts_in_words(line: Finding) -> str:
    """Return how many sites got which verdict, as in 'leakage found at 2 sites, cannot tell at 1 site'."""
    return ", ".join(
        f"{verdict} at {plural(line.sites[verdict], 'site')}"
        for verdict in (FOUND, NONE_FOUND, UNCLEAR)
        if line.sites[verdict]
    )


def _overall(by_site: Mapping[str, str]) -> str:
    """Return the verdict over all sites; where none was given, the sites' own if they agree or one found leakage."""
    own = set(by_site.values())
    if ALL_SITES in by_site:
        return by_site[ALL_SITES]
    return FOUND if FOUND in own else own.pop() if len(own) == 1 else UNCLEAR


def conclusion(results: Results) -> str:
    """Return what the findings come to for all that leaves the sites, in one or two sentences."""
    lines = [line for line in findings(results) if line.adversary != OWNER]
    if not lines:
        return "Nothing was attacked: this run gives no evidence of what its outputs reveal."
    leaking = [target_label(line.target, results) for line in lines if line.overall == FOUND or line.sites[FOUND]]
    passed = [target_label(line.target, results) for line in lines if _passed(line)]
    rest = [target_label(line.target, results) for line in lines if not _passed(line)]
    rest = [label for label in rest if label not in leaking]
    parts = (
        [f"Leakage of membership was found, at a site or over all together, in: {listing(leaking)}."] if leaking else []
    )
    parts += [copies] if (copies := copies_found(results)) else []
    parts += [f"No leakage was found by attacks that could have found it in: {listing(passed)}."] if passed else []
    parts += [f"The audit cannot tell, which is no pass, for: {listing(rest)}."] if rest else []
    return " ".join(parts)


def _passed(line: Finding) -> bool:
    return line.overall == NONE_FOUND and set(line.sites) == {NONE_FOUND}


def confidence(results: Results) -> str:
    """Return with which confidence the verdicts hold, and what the controls say of the attacks' strength."""
    void = void_sites(results)
    text = (
        f"Over all targets and sites together, the chance that any 'leakage found' is a mistake is {percent(LEVEL, 0)} "
        f"at most (Holm). 'No leakage found' takes attacks with reference models whose AUC is {LARGEST_PASS} at "
        "most at the upper end of its interval, and that find a control that knows the images; else 'cannot tell'."
    )
    return text + (
        f" Void, as members and non-members differ without any model (in images or class shares): {listing(void)}."
        if void
        else ""
    )
