"""What the page says of the audit when unfolded: controls, bounds, single classes and every attack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.colors import to_hex

from fedkr.audit.statistics.pooling import ALL_SITES
from fedkr.audit.verdict import CHANCE, FOUND, NONE_FOUND, UNCLEAR
from fedkr.report.audit_fields import AttackFigures, AuditRow, EpsilonRow, PerClassRow
from fedkr.report.audit_rows import audited_targets, void_sites
from fedkr.report.elements import Cell, Markup, folded, heading, paragraph, table
from fedkr.report.results import Results
from fedkr.report.style import HEAT, text_on
from fedkr.report.wording import (
    NONE,
    attack_label,
    attack_with_references,
    auc_interval,
    balanced_interval,
    decimal,
    percent,
    references_label,
    row_fprs,
    target_label,
    tpr_interval,
)

HEAT_RANGE = 0.25
Cells = list[list[Cell]]
FIGURE_TITLES = ("site", "attack", "AUC [95 %]", "TPR at 1 % FPR [95 %]")
_PILLS = {NONE_FOUND: "clear", FOUND: "leak", UNCLEAR: "unsure"}
PAIRED = (
    "AUC of the first minus AUC of the second, on the same images: chance differences in difficulty cancel. Below 0 "
    "the first leaks less; marked where the interval excludes 0."
)
COPIES = (
    "A released image is close to a member if it is closer than nearly all members are to their nearest other member. "
    "The test asks whether members have such an image more often than non-members do: a generator that draws typical "
    "images comes close to both alike. By chance: how often images of the holdout are close to a member. The images "
    "themselves stand side by side in the site's own local report."
)
EPSILON = (
    "A lower bound from this one run: the pipeline is no more private than this. 'Largest' is what so many coins could "
    "show at most; a bound of 0 refutes nothing and proves nothing."
)
CANARIES = "Planted images, each put into the training data by a fair coin: those that went in against those left out."
BLIND = (
    "A classifier that sees only images, no model. If it tells members from non-members, the audit of that site is "
    "void: one-sided permutation test at 1 %, Holm-corrected over the sites."
)
WORST = "The highest of several AUCs lies above 0.5 by chance: read it with its interval and the number of sites."
PER_CLASS = (
    "AUC of the headline attack within each class. Marked where the 95 % interval lies above guessing; among many "
    "cells a few do so by chance. A dash: too few images."
)


def audit_details(results: Results) -> str:
    """Return the folded parts that there is something to show for."""
    folds = [
        _blind(results),
        _paired(results),
        _epsilon(results),
        _canaries(results),
        _copies(results),
        _worst_sites(results),
        _per_class(results),
        _all_attacks(results),
    ]
    shown = [fold for fold in folds if fold]
    return "\n".join([heading("Details"), *shown]) if shown else ""


def verdict_pill(verdict: str) -> Markup:
    """Return a verdict as a small coloured label."""
    return _pill(verdict, _PILLS.get(verdict, ""))


def _pill(text: str, style: str) -> Markup:
    return Markup(f'<span class="pill {style}">{escape(text)}</span>')


def marked(text: str, low: float | None, above: float) -> Cell:
    """Return a figure, marked where the lower end of its interval lies above a value."""
    return Markup(f'<span class="leak">{escape(text)}</span>') if low is not None and low > above else text


def figure_cells(row: AttackFigures) -> list[Cell]:
    """Return an attack's cells under :data:`FIGURE_TITLES`; the AUC is marked where its interval is above chance."""
    auc = marked(auc_interval(row), row.get("auc_low"), CHANCE)
    return [row["site"], attack_with_references(row), auc, tpr_interval(row)]


def _fold(title: str, remark: str, text: str, titles: list[str], cells: Cells, numbers_from: int) -> str:
    if not cells:
        return ""
    return folded(title, remark, paragraph(text), table(titles, cells, numbers_from, [""] * len(cells)))


def _blind(results: Results) -> str:
    rows = results.get("audit_extras", {}).get("blind", [])
    cells: Cells = [
        [
            r["site"],
            decimal(r.get("auc")),
            _p_value(r.get("p_value")),
            _pill("void", "leak") if r.get("rejected") else "passed",
        ]
        for r in rows
    ]
    rejected = len(void_sites(results))
    remark = f"{rejected} of {len(rows)} sites void" if rejected else f"passed at all {len(rows)} sites"
    return _fold("Blind baseline", remark, BLIND, ["site", "AUC without a model", "p", "audit"], cells, 1)


def _p_value(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def _paired(results: Results) -> str:
    rows = results.get("audit_extras", {}).get("paired", [])
    cells: Cells = [
        [
            target_label(row["target"], results),
            target_label(row["other"], results),
            row["site"],
            _attack_of(row),
            _difference(row),
        ]
        for row in rows
    ]
    titles = ["first", "second", "site", "attack", "difference [95 %]"]
    return _fold("Paired differences", "two targets on the same images", PAIRED, titles, cells, 4)


def _attack_of(row: Mapping[str, Any]) -> str:
    return attack_with_references(row) if "attack" in row else NONE


def _difference(row: Mapping[str, Any]) -> Cell:
    difference, low, high = row.get("difference"), row.get("low"), row.get("high")
    if difference is None:
        return NONE
    if low is None or high is None:
        return f"{difference:+.3f}"
    text = f"{difference:+.3f} [{low:+.2f}, {high:+.2f}]"
    return Markup(f"<b>{escape(text)}</b>") if low > 0 or high < 0 else text


def _epsilon(results: Results) -> str:
    rows = results.get("audit_extras", {}).get("epsilon", [])
    cells: Cells = [
        [
            target_label(row["target"], results),
            row["site"],
            _attack_of(row),
            _bound(row),
            decimal(row.get("largest"), 2),
            NONE if row.get("delta") is None else f"{row['delta']:g}",
            percent(row.get("confidence"), 0),
            NONE if "guesses" not in row else f"{row.get('correct', 0):,} of {row['guesses']:,}",
            _number(row.get("coins")),
        ]
        for row in rows
    ]
    titles = ["target", "site", "attack", "epsilon", "largest", "delta", "confidence", "right guesses", "coins"]
    return _fold("Lower bound on epsilon", "from fair coins and one run", EPSILON, titles, cells, 3)


def _bound(row: EpsilonRow) -> Cell:
    epsilon = row.get("epsilon")
    if epsilon is None:
        return Markup(f"none<small>{escape(row.get('reason', ''))}</small>")
    return marked(f"≥ {epsilon:.2f}", epsilon, 0.0)


def _canaries(results: Results) -> str:
    rows = results.get("audit_extras", {}).get("canaries", [])
    cells: Cells = [
        [
            target_label(row["target"], results),
            *figure_cells(row),
            f"{row.get('included', 0):,}",
            f"{row.get('excluded', 0):,}",
        ]
        for row in rows
    ]
    titles = ["target", *FIGURE_TITLES, "in", "out"]
    return _fold("Canaries", "planted images: the worst case", CANARIES, titles, cells, 3)


def _copies(results: Results) -> str:
    rows = results.get("audit_extras", {}).get("copies", [])
    cells: Cells = [
        [
            row["site"],
            _pill("copies found", "leak") if row.get("flagged") else "none found",
            _number(row.get("released")),
            f"{_number(row.get('suspects'))} ({percent(row.get('share'))})",
            _number(row.get("verbatim")),
            percent(row.get("chance_share")),
            _share_of(row.get("members_found"), row.get("members")),
            _share_of(row.get("nonmembers_found"), row.get("nonmembers")),
            _p_value(row.get("p_value")),
        ]
        for row in rows
    ]
    titles = ["site", "copies", "released", "close to a member", "verbatim", "by chance"]
    titles += ["members found", "non-members found", "p"]
    flagged = sum(bool(row.get("flagged")) for row in rows)
    remark = f"copies at {flagged} of {len(rows)} sites" if flagged else "no copies found"
    return _fold("Copy check", remark, COPIES, titles, cells, 2)


def _share_of(found: int | None, count: int | None) -> str:
    return NONE if not count or found is None else f"{found:,} ({percent(found / count)})"


def _number(count: int | None) -> str:
    return NONE if count is None else f"{count:,}"


def _worst_sites(results: Results) -> str:
    rows = results.get("audit_extras", {}).get("worst_site", [])
    cells: Cells = [[target_label(row["target"], results), *figure_cells(row)] for row in rows]
    titles = ["target", *FIGURE_TITLES]
    return _fold("Most exposed site", "of each target, by the headline attack", WORST, titles, cells, 3)


def _per_class(results: Results) -> str:
    rows = results.get("audit_extras", {}).get("per_class", [])
    if not rows:
        return ""
    tables = []
    for target in [t for t in audited_targets(results) if any(row["target"] == t for row in rows)]:
        own = [row for row in rows if row["target"] == target]
        classes = list(dict.fromkeys(_class_name(name, results) for row in own for name in row.get("classes", [])))
        cells: Cells = [[row["site"], *_class_cells(row, classes, results)] for row in own]
        titles = ["site", *classes]
        name = f"{target_label(target, results)}: {_attack_of(own[0])}"
        tables += [heading(name), table(titles, cells, 1, [""] * len(cells))]
    return folded("By class", "which classes are most exposed", paragraph(PER_CLASS), *tables)


def _class_name(name: object, results: Results) -> str:
    classes = results.get("classes", [])
    return classes[name] if isinstance(name, int) and 0 <= name < len(classes) else str(name)


def _class_cells(row: PerClassRow, classes: list[str], results: Results) -> list[Cell]:
    names = [_class_name(name, results) for name in row.get("classes", [])]
    aucs = dict(zip(names, row.get("auc", []), strict=False))
    lows = dict(zip(names, row.get("low", []), strict=False))
    highs = dict(zip(names, row.get("high", []), strict=False))
    return [_heat(aucs.get(name), lows.get(name), highs.get(name)) for name in classes]


def _heat(auc: float | None, low: float | None, high: float | None) -> Cell:
    """Return an AUC on a ground that darkens from guessing on; the interval shows under the pointer."""
    if auc is None:
        return NONE
    strength = min(max(auc - CHANCE, 0.0) / HEAT_RANGE, 1.0)
    ground = to_hex(HEAT(0.75 * strength))
    interval = "" if low is None or high is None else f' title="[{low:.2f}, {high:.2f}]"'
    weight = "bold" if low is not None and low > CHANCE else "normal"
    style = f"background:{ground};color:{text_on(ground)};font-weight:{weight}"
    return Markup(f'<span class="heat" style="{style}"{interval}>{auc:.2f}</span>')


def _all_attacks(results: Results) -> str:
    rows = results.get("audit", [])
    if len({(row["attack"], row.get("references")) for row in rows}) < 2:
        return ""
    fprs = sorted({fpr for row in rows for fpr in row_fprs(row)}, reverse=True)
    titles = ["site", "attack", "references", "AUC [95 %]"]
    titles += [f"TPR at {percent(fpr, 0 if fpr >= 0.01 else 1)} FPR" for fpr in fprs] + ["balanced accuracy [95 %]"]
    folds = []
    for target in audited_targets(results):
        own = sorted((row for row in rows if row["target"] == target), key=lambda row: row["site"] != ALL_SITES)
        cells = [_attack_cells(row, fprs) for row in own]
        counts = Counter(row["attack"] for row in own)
        remark = f"{len(counts)} attack{'s' if len(counts) != 1 else ''}, {len(own)} rows"
        folds.append(folded(target_label(target, results), remark, table(titles, cells, 3, [""] * len(cells))))
    return folded("Every attack", f"{len(rows)} rows", *folds)


def _attack_cells(row: AuditRow, fprs: Sequence[float]) -> list[Cell]:
    return [
        row["site"],
        attack_label(row["attack"]),
        references_label(row.get("references")) or NONE,
        marked(auc_interval(row), row.get("auc_low"), CHANCE),
        *(tpr_interval(row, fpr) for fpr in fprs),
        balanced_interval(row),
    ]
