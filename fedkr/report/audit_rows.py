"""Which audit rows belong together: by adversary, pooled over the sites, and beside a strategy's accuracy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from fedkr.audit.statistics.membership import accuracy_over_privacy
from fedkr.audit.statistics.pooling import ALL_SITES, pooled_rows
from fedkr.audit.targets import adversary_of
from fedkr.audit.verdict import site_verdicts
from fedkr.report.audit_fields import AuditRow, VerdictRow
from fedkr.report.results import Results, headline_attack_rows, headline_rows, references_kind

OUTSIDER, SERVER, OWNER = ADVERSARIES = ("outsider", "server", "owner")
_ORDER = ("student", "weights", "centralised", "site-student", "update", "release", "teacher", "local")


def adversary(row: Mapping[str, Any]) -> str:
    """Return who could mount the attack: outsider, server, or only the owner of what never leaves its site."""
    return row.get("adversary") or adversary_of(row["target"])


def audited_targets(results: Results) -> list[str]:
    """Return the audited targets: what an outsider sees, then the server, then what never leaves a site."""
    seen = {row["target"]: adversary(row) for row in results.get("audit", [])}

    def place(target: str) -> tuple[int, int]:
        by = seen[target]
        rank = _ORDER.index(target if target in _ORDER else "weights")
        return ADVERSARIES.index(by) if by in ADVERSARIES else len(ADVERSARIES), rank

    return sorted(seen, key=place)


def audited_sites(results: Results) -> list[str]:
    """Return the sites that answered an audit, in the order of the document, without the pooled rows."""
    return [site for site in dict.fromkeys(row["site"] for row in results.get("audit", [])) if site != ALL_SITES]


def headline_by_target(results: Results) -> dict[str, list[AuditRow]]:
    """Return each target's headline rows, one a site, the pooled row of the same kind of references last."""
    found: dict[str, list[AuditRow]] = defaultdict(list)
    for row in headline_rows(results):
        found[row["target"]].append(row)
    for target, rows in found.items():
        kinds = Counter(references_kind(row) for row in rows)
        pooled = [row for row in pooled_headlines(results, target) if references_kind(row) in kinds]
        rows += sorted(pooled, key=lambda row: kinds[references_kind(row)])[-1:]
    return {target: found[target] for target in audited_targets(results) if target in found}


def pooled_headlines(results: Results, target: str) -> list[AuditRow]:
    """Return the headline attack's rows of all sites together, one for each kind of references.

    Runs that did not pool their rows are pooled here.
    """
    rows = [row for row in headline_attack_rows(results) if row["target"] == target]
    pooled = [row for row in rows if row["site"] == ALL_SITES]
    countable = [row for row in rows if "members" in row and "nonmembers" in row]
    return pooled or [cast(AuditRow, row) for row in pooled_rows(countable)]


@dataclass(frozen=True)
class PlanePoint:
    """One strategy in the plane of utility and privacy: its accuracy and one pooled attack on what it gives away."""

    strategy: str
    accuracy: float
    row: AuditRow

    @property
    def aop(self) -> float | None:
        """Accuracy over privacy in percent; None without an AUC."""
        auc = self.row.get("auc")
        return None if auc is None else accuracy_over_privacy(100 * self.accuracy, auc)


def plane_points(results: Results) -> list[PlanePoint]:
    """Return every strategy's accuracy beside the pooled headline attack, for each adversary and kind of references."""
    kind = (results.get("study", {}).get("strategy") or {}).get("kind", "fedavg")
    strategy_of = {"student": "fedkr", "site-student": "fedkr", "release": "fedkr", "update": kind, "weights": kind}
    accuracies = {s["name"]: s.get("accuracy") for s in results["strategies"]}
    points = []
    for target in audited_targets(results):
        name = strategy_of.get(target, target)
        accuracy = accuracies.get(name)
        if accuracy is not None:
            points += [PlanePoint(name, accuracy, row) for row in pooled_headlines(results, target)]
    return points


def void_sites(results: Results) -> list[str]:
    """Return the sites whose members and non-members differ without any model, which voids their audit."""
    return [row["site"] for row in results.get("audit_extras", {}).get("blind", []) if row.get("rejected")]


def verdict_rows(results: Results) -> list[VerdictRow]:
    """Return the verdicts per target and site, in the report's order; judged here where the run did not."""
    targets = audited_targets(results)
    found = results.get("audit_extras", {}).get("verdicts")
    if found is None:
        judged = site_verdicts(results.get("audit", []), void_sites(results))
        found = [cast(VerdictRow, verdict.as_row()) for verdict in judged]
    return sorted(found, key=lambda row: targets.index(row["target"]) if row["target"] in targets else len(targets))


def verdict_counts(results: Results, target: str) -> Counter[str]:
    """Return how many sites got which verdict on a target."""
    return Counter(
        row["verdict"] for row in verdict_rows(results) if row["target"] == target and row["site"] != ALL_SITES
    )
