"""What the pages show of an audit: plain lists by target, site and class for the templates in ``templates/audit``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

from matplotlib.figure import Figure

from fedkr.audit.statistics.pooling import ALL_SITES
from fedkr.audit.verdict import LARGEST_PASS, STRONGEST
from fedkr.report.audit_fields import AuditRow, PerClassRow
from fedkr.report.coverage import not_tested, tested
from fedkr.report.pages.frame import Picture, picture
from fedkr.report.results import Results
from fedkr.report.selection import (
    audited_targets,
    headline_by_target,
    plane_points,
    verdict_counts,
    verdict_rows,
    void_sites,
)
from fedkr.report.wording import ADVERSARY_MEANING, attack_with_references, fpr_label, row_fprs, target_label


@dataclass(frozen=True)
class Verdicts:
    """The verdicts in the report's order.

    Attributes:
        sites: those that were judged.
        by_target: verdict by target and site.
        counts: how many sites got which verdict, by target.
        reasons: the sites that share target, verdict and reason.
    """

    sites: list[str]
    by_target: dict[str, dict[str, str]]
    counts: dict[str, Counter[str]]
    reasons: dict[tuple[str, str, str], list[str]]


@dataclass(frozen=True)
class ClassAuc:
    """The headline attack's AUC within one class, with its interval."""

    auc: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ClassTable:
    """The AUCs of one target by site and class, None where a site has none for a class."""

    target: str
    attack: str
    classes: list[str]
    rows: list[tuple[str, list[ClassAuc | None]]]


def audit_view(results: Results) -> dict[str, Any]:
    """Return what the templates of an audit are given."""
    rows = results.get("audit", [])
    fprs = sorted({fpr for row in rows for fpr in row_fprs(row)}, reverse=True)
    return {
        "results": results,
        "extras": results.get("audit_extras", {}),
        "target_label": partial(target_label, results=results),
        "adversaries": audited_targets(results),
        "meanings": ADVERSARY_MEANING,
        "LARGEST_PASS": LARGEST_PASS,
        "STRONGEST": STRONGEST,
        "void": void_sites(results),
        "verdicts": _verdicts(results),
        "tested": tested(results),
        "not_tested": not_tested(results),
        "plane": plane_points(results),
        "headline": headline_by_target(results),
        "by_class": _by_class(results),
        "every_attack": _every_attack(rows, list(audited_targets(results))),
        "fprs": fprs,
        "tpr_titles": [f"TPR at {fpr_label(fpr)} FPR" for fpr in fprs],
    }


def embedded(figures: Mapping[str, Figure | None]) -> dict[str, Picture]:
    """Return figures as pictures: the sites' images as PNG, charts as SVG; those that are None are left out."""
    return {
        name: picture(figure, "png" if name.startswith("samples-") else "svg")
        for name, figure in figures.items()
        if figure is not None
    }


def _verdicts(results: Results) -> Verdicts:
    by_target: dict[str, dict[str, str]] = defaultdict(dict)
    reasons: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in verdict_rows(results):
        by_target[row["target"]][row["site"]] = row["verdict"]
        reasons[row["target"], row["verdict"], row.get("reason", "")].append(row["site"])
    sites = list(dict.fromkeys(site for found in by_target.values() for site in found))
    return Verdicts(sites, by_target, verdict_counts(results), reasons)


def _by_class(results: Results) -> list[ClassTable]:
    rows = results.get("audit_extras", {}).get("per_class", [])
    targets = [target for target in audited_targets(results) if any(row["target"] == target for row in rows)]
    return [_class_table([row for row in rows if row["target"] == target], results) for target in targets]


def _class_table(rows: list[PerClassRow], results: Results) -> ClassTable:
    by_site = [(row["site"], _class_aucs(row, results)) for row in rows]
    classes = list(dict.fromkeys(name for _, aucs in by_site for name in aucs))
    cells = [(site, [aucs.get(name) for name in classes]) for site, aucs in by_site]
    return ClassTable(rows[0]["target"], attack_with_references(rows[0]), classes, cells)


def _class_aucs(row: PerClassRow, results: Results) -> dict[str, ClassAuc]:
    names = [_class_name(name, results) for name in row.get("classes", [])]
    figures = zip_longest(row.get("auc", []), row.get("low", []), row.get("high", []))
    return {name: ClassAuc(*found) for name, found in zip(names, figures, strict=False)}


def _class_name(name: object, results: Results) -> str:
    classes = results.get("classes", [])
    return classes[name] if isinstance(name, int) and 0 <= name < len(classes) else str(name)


def _every_attack(rows: list[AuditRow], targets: list[str]) -> dict[str, list[AuditRow]]:
    """Return each target's rows, all sites together first; nothing where there is one attack, which stands above."""
    if len({(row["attack"], row.get("references")) for row in rows}) < 2:
        return {}
    ordered = sorted(rows, key=lambda row: row["site"] != ALL_SITES)
    return {target: [row for row in ordered if row["target"] == target] for target in targets}
