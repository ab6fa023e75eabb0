"""What the pages show of an audit beside its rows: lists by target, site and class for ``templates/audit``."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fedkr.report.audit_fields import AuditRow, PerClassRow
from fedkr.report.results import Results
from fedkr.report.selection import audited_targets, verdict_rows
from fedkr.report.wording import attack_with_references
from fedkr.site_name import ALL_SITES


def verdict_reasons(results: Results) -> dict[tuple[str, str, str], list[str]]:
    """Return the sites that share target, verdict and reason."""
    sites: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in verdict_rows(results):
        sites[row["target"], row["verdict"], row.get("reason", "")].append(row["site"])
    return sites


def by_class(results: Results) -> list[dict[str, Any]]:
    """Return a table for each target whose classes were attacked one by one."""
    rows = results.get("audit_extras", {}).get("per_class", [])
    targets = [target for target in audited_targets(results) if any(row["target"] == target for row in rows)]
    return [_class_table([row for row in rows if row["target"] == target], results) for target in targets]


def _class_table(rows: list[PerClassRow], results: Results) -> dict[str, Any]:
    """Return a target's AUC, low and high by site and class, None where a site has none for a class."""
    by_site = [(row["site"], _class_aucs(row, results)) for row in rows]
    classes = list(dict.fromkeys(name for _, aucs in by_site for name in aucs))
    cells = [(site, [aucs.get(name) for name in classes]) for site, aucs in by_site]
    return {"target": rows[0]["target"], "attack": attack_with_references(rows[0]), "classes": classes, "rows": cells}


def _class_aucs(row: PerClassRow, results: Results) -> dict[str, tuple[float | None, ...]]:
    names = dict(enumerate(results.get("classes", [])))
    intervals = zip(row["auc"], row["low"], row["high"], strict=True)
    return dict(zip((names.get(label, str(label)) for label in row["classes"]), intervals, strict=True))


def every_attack(results: Results) -> dict[str, list[AuditRow]]:
    """Return each target's rows, all sites together first; nothing where there is one attack, which stands above."""
    rows = results.get("audit", [])
    if len({(row["attack"], row.get("references")) for row in rows}) < 2:
        return {}
    ordered = sorted(rows, key=lambda row: row["site"] != ALL_SITES)
    return {target: [row for row in ordered if row["target"] == target] for target in audited_targets(results)}
