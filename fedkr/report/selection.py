"""Which results belong together: a strategy's scores, the headline attack by target and site, what all sites pool."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from fedkr.audit.statistics.membership import accuracy_over_privacy
from fedkr.audit.statistics.pooling import pooled_rows
from fedkr.audit.targets import CONTROLS, adversary_of
from fedkr.audit.verdict import Blind, site_verdicts
from fedkr.report.audit_fields import AuditRow, PatientRow, VerdictRow
from fedkr.report.results import (
    Candidate,
    Guarantee,
    Results,
    SiteResult,
    SiteScores,
    StrategyDifference,
    StrategyResult,
    Tuning,
)
from fedkr.site_name import ALL_SITES

OUTSIDER, SERVER, OWNER = ADVERSARIES = ("outsider", "server", "owner")
_ORDER = (
    "student",
    "weights",
    "oracle",
    "site-student",
    "update",
    "rounds",
    "release",
    "teacher",
    "local",
    "personal",
    *CONTROLS,
)
_STRENGTH = {"direct": 1, "pipeline": 2}


def strategy_by_name(results: Results, name: str) -> StrategyResult | None:
    """Return a strategy of the comparison, or None where it was not part of it."""
    return next((s for s in results["strategies"] if s["name"] == name), None)


def kind_and_owner(results: Results, target: str) -> tuple[str, str]:
    """Return an audited target's kind, and the contestant whose accuracy it stands beside."""
    left = results.get("targets", [])
    for row in left:
        if row["name"] == target:
            return row["kind"], row["contestant"]
    # A release, and a student of one site's, belong to whoever trains a student on all of them.
    students = [row["contestant"] for row in left if row["kind"] == "student"]
    return target, students[0] if students else target


def paired_differences(results: Results) -> dict[str, dict[str, StrategyDifference]]:
    """Return by other strategy, and by figure, how FedKR's student differs from it on the same test images."""
    found: dict[str, dict[str, StrategyDifference]] = {}
    for row in results.get("differences", []):
        found.setdefault(row["other"], {})[row["figure"]] = row
    return found


def recalls_on_test(results: Results) -> dict[str, list[float | None]]:
    """Return by strategy the recall of each class on the global test images, None for a class that has none there."""
    found = {}
    for row in results["strategies"]:
        if confusion := row.get("confusion"):
            classes = math.isqrt(len(confusion))
            rows = [confusion[start : start + classes] for start in range(0, len(confusion), classes)]
            found[row["name"]] = [own[k] / sum(own) if sum(own) else None for k, own in enumerate(rows)]
    return found


def own_tests(results: Results) -> tuple[list[str], dict[str, list[float | None]]]:
    """Return which strategies were tested at the sites, and by site each one's accuracy on the site's test images."""
    scores = {
        s["name"]: {p["site"]: p.get("accuracy") for p in s["per_site"]}
        for s in results["strategies"]
        if s.get("per_site")
    }
    sites = dict.fromkeys(site for own in scores.values() for site in own)
    return list(scores), {site: [own.get(site) for own in scores.values()] for site in sites}


@dataclass(frozen=True)
class ChoiceRow:
    """A site's line of who chose whose data.

    ``cells`` has one entry for each giver, None where its release was not offered to the site, or the site does not
    tell what it chose.
    """

    how: str
    own: float | None
    cells: list[Candidate | None]


def choices(results: Results) -> dict[str, tuple[list[str], dict[str, ChoiceRow]]]:
    """Return by contestant the sites whose releases were offered, and by site what it found of each."""
    found = {}
    for contestant, by_site in results.get("choices", {}).items():
        rows = {site: {row["site"]: row for row in choice.get("candidates", [])} for site, choice in by_site.items()}
        givers = list(dict.fromkeys(giver for row in rows.values() for giver in row))
        cells = {site: [row.get(giver) for giver in givers] for site, row in rows.items()}
        lines = {site: ChoiceRow(one["how"], one.get("own"), cells[site]) for site, one in by_site.items()}
        found[contestant] = givers, lines
    return found


def site_totals(site: SiteResult) -> list[int]:
    """Return int ``[classes]``: the site's images of each class over all splits; empty where it did not say."""
    return [sum(column) for column in zip(*(site.get("counts") or {}).values(), strict=True)]


def site_costs(results: Results) -> list[tuple[str, SiteScores]]:
    """Return each strategy's bytes and time at each site, where either is known."""
    known = ("bytes_up", "bytes_down", "seconds")
    rows = [(strategy["name"], score) for strategy in results["strategies"] for score in strategy.get("per_site", [])]
    return [(name, score) for name, score in rows if any(score.get(figure) is not None for figure in known)]


def tunings(results: Results) -> list[tuple[str, str, Tuning]]:
    """Return how each model was tuned: the contestant, the site where each has its own (else nothing), and the rest."""
    found = []
    for strategy in results["strategies"]:
        if "tuning" in strategy:
            found.append((strategy["name"], "", strategy["tuning"]))
        for score in strategy.get("per_site", []):
            if "tuning" in score:
                found.append((strategy["name"], score["site"], score["tuning"]))
    return found


def search_looks(results: Results) -> dict[str, tuple[int, bool | None]]:
    """Return by site how many checkpoints and sampler settings ``fedkr`` scored, and whether val chose among them.

    Whether it did is None where the site does not tell.
    """
    looks = {}
    for site, tried in results.get("recycling", {}).items():
        # The best checkpoint meets the settings of the sampler, where any were tried.
        tuned = max(0, len(tried.get("tuning", [])) - 1)
        by_val = None if "by_val" not in tried else bool(tried["by_val"])
        looks[site] = len(tried.get("checkpoints", [])) + tuned, by_val
    return looks


def unchosen_sites(results: Results) -> list[str]:
    """Return the sites whose val split was too small to choose a checkpoint or setting by."""
    return [site for site, (_, by_val) in search_looks(results).items() if by_val is False]


def bytes_sent(results: Results) -> dict[str, float | None]:
    """Return what each site sent in bytes for the student."""
    student = strategy_by_name(results, "fedkr")
    return {score["site"]: score.get("bytes_up") for score in (student.get("per_site", []) if student else [])}


def adversary(row: Mapping[str, Any]) -> str:
    """Return who could mount the attack: outsider, server, or only the owner of what never leaves its site."""
    return row.get("adversary") or adversary_of(row["target"])


def references_kind(row: Mapping[str, Any]) -> str:
    """Return the kind of an attack's reference models, ``direct`` or ``pipeline``; nothing where it needs none."""
    kind = row.get("references")
    return "" if kind in (None, "none") else str(kind)


def audited_targets(results: Results) -> dict[str, str]:
    """Return each audited target's adversary: an outsider's targets, the server's, then what never leaves a site."""
    seen = {row["target"]: adversary(row) for row in results.get("audit", [])}

    def place(target: str) -> tuple[int, int]:
        by, (kind, _) = seen[target], kind_and_owner(results, target)
        rank = _ORDER.index(kind if kind in _ORDER else "weights")
        return ADVERSARIES.index(by) if by in ADVERSARIES else len(ADVERSARIES), rank

    return {target: seen[target] for target in sorted(seen, key=place)}


def audited_sites(results: Results) -> list[str]:
    """Return the sites that answered an audit, in the order of the document, without the pooled rows."""
    return [site for site in dict.fromkeys(row["site"] for row in results.get("audit", [])) if site != ALL_SITES]


def headline_rows(results: Results) -> list[AuditRow]:
    """Return one row per target and site: the attack named beforehand, with the closest kind of references.

    That is the flagged attack, else the configured one, else the target's first. Of several kinds of reference models
    the strongest leads: whole pipelines, then direct ones. Rows pooled over the sites are not among them.
    """
    best: dict[tuple[str, str], AuditRow] = {}
    for row in _headline_attacks(results):
        if row["site"] != ALL_SITES:
            place = row["target"], row["site"]
            best[place] = max(best.get(place, row), row, key=_strength)
    return list(best.values())


def headline_patients(results: Results) -> list[PatientRow]:
    """Return the headline attack on patients, a row a target and site, those of all sites together among them."""
    quoted = {(row["target"], row["attack"], references_kind(row)) for row in headline_rows(results)}
    rows = results.get("audit_extras", {}).get("patients", [])
    return [row for row in rows if (row["target"], row["attack"], references_kind(row)) in quoted]


def _strength(row: AuditRow) -> int:
    return _STRENGTH.get(references_kind(row), 0)


def _headline_attacks(results: Results) -> list[AuditRow]:
    """Return each target's rows of its headline attack: every site, ``all sites``, every kind of references."""
    rows = results.get("audit", [])
    configured = (results.get("study", {}).get("audit") or {}).get("headline")
    attacks: dict[str, set[str]] = {}
    for target in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if row["target"] == target]
        flagged = {row["attack"] for row in own if row.get("headline")}
        known = {row["attack"] for row in own}
        attacks[target] = flagged or {configured if configured in known else own[0]["attack"]}
    return [row for row in rows if row["attack"] in attacks[row["target"]]]


def headline_by_target(results: Results) -> dict[str, list[AuditRow]]:
    """Return each target's headline rows, one a site, the pooled row of the same kind of references last."""
    found: dict[str, list[AuditRow]] = defaultdict(list)
    for row in headline_rows(results):
        found[row["target"]].append(row)
    for target, rows in found.items():
        kinds = Counter(references_kind(row) for row in rows)
        pooled = [row for row in _pooled_headlines(results, target) if references_kind(row) in kinds]
        rows += sorted(pooled, key=lambda row: kinds[references_kind(row)])[-1:]
    return {target: found[target] for target in audited_targets(results) if target in found}


def _pooled_headlines(results: Results, target: str) -> list[AuditRow]:
    """Return the headline attack's rows of all sites together, one for each kind of references.

    Runs that did not pool their rows are pooled here.
    """
    rows = [row for row in _headline_attacks(results) if row["target"] == target]
    pooled = [row for row in rows if row["site"] == ALL_SITES]
    countable = [row for row in rows if "members" in row and "nonmembers" in row]
    return pooled or [cast(AuditRow, row) for row in pooled_rows(countable)]


@dataclass(frozen=True)
class PlanePoint:
    """One strategy in the plane of utility and privacy: its accuracy and one pooled attack on what it gives away."""

    strategy: str
    kind: str
    accuracy: float
    row: AuditRow

    @property
    def aop(self) -> float | None:
        """Accuracy over privacy in percent; None without an AUC."""
        auc = self.row.get("auc")
        return None if auc is None else accuracy_over_privacy(100 * self.accuracy, auc)


def plane_points(results: Results) -> list[PlanePoint]:
    """Return every strategy's accuracy beside the pooled headline attack, for each adversary and kind of references."""
    accuracies = {s["name"]: s.get("accuracy") for s in results["strategies"]}
    points = []
    for target in audited_targets(results):
        kind, name = kind_and_owner(results, target)
        # A contestant's accuracy says nothing of the teachers that it has on the way, nor of an audit's controls.
        accuracy = None if kind in ("teacher", *CONTROLS) else accuracies.get(name)
        if accuracy is not None:
            points += [PlanePoint(name, kind, accuracy, row) for row in _pooled_headlines(results, target)]
    return points


def void_sites(results: Results) -> list[str]:
    """Return the sites whose members and non-members differ without any model, which voids their audit."""
    return [row["site"] for row in results.get("audit_extras", {}).get("blind", []) if row.get("rejected")]


def verdict_rows(results: Results) -> list[VerdictRow]:
    """Return the verdicts per target and site, in the report's order; judged here where the run did not."""
    targets = list(audited_targets(results))
    found = results.get("audit_extras", {}).get("verdicts")
    if found is None:
        extras = results.get("audit_extras", {})
        beside = extras.get("canaries", []), extras.get("two_sample", []), extras.get("patients", [])
        judged = site_verdicts(results.get("audit", []), Blind(void_sites(results)), *beside)
        found = [cast(VerdictRow, verdict.as_row()) for verdict in judged]
    return sorted(found, key=lambda row: targets.index(row["target"]) if row["target"] in targets else len(targets))


def verdict_counts(results: Results) -> dict[str, Counter[str]]:
    """Return how many sites got which verdict, by target."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in verdict_rows(results):
        if row["site"] != ALL_SITES:
            counts[row["target"]][row["verdict"]] += 1
    return counts


def verdicts_by_site(results: Results) -> dict[str, dict[str, str]]:
    """Return the verdicts by target and site."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in verdict_rows(results):
        found[row["target"]][row["site"]] = row["verdict"]
    return found


def release_guarantees(results: Results) -> list[Guarantee]:
    """Return what is proven of each site's release; nothing where any of them has no guarantee."""
    sites = results.get("recycling", {}).values()
    known = [site["privacy"] for site in sites if "privacy" in site]
    return known if len(known) == len(sites) else []


def guaranteed_weights(results: Results) -> list[StrategyResult]:
    """Return the strategies of which something is proven of the weights that sites sent."""
    return [row for row in results["strategies"] if "epsilon" in row.get("tuning", {})]


def target_kinds(results: Results) -> set[str]:
    """Return which kinds of targets were attacked."""
    return {kind_and_owner(results, target)[0] for target in audited_targets(results)}


def data_warnings(results: Results) -> list[str]:
    """Return what a reader of any figure has to know of the data, a line each."""
    facts = results.get("data")
    return facts["warnings"] if facts else []
