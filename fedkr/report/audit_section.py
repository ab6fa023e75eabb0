"""The page's audit: verdicts first, then what was tested, the figures, and everything else folded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from fedkr.audit.verdict import CHANCE, LARGEST_PASS, STRONGEST, VERDICTS
from fedkr.report.audit_details import FIGURE_TITLES, audit_details, figure_cells, verdict_pill
from fedkr.report.audit_fields import AuditRow, VerdictRow
from fedkr.report.audit_rows import (
    adversary,
    audited_sites,
    audited_targets,
    headline_by_target,
    plane_points,
    verdict_counts,
    verdict_rows,
    void_sites,
)
from fedkr.report.conclusions import audit_verdict
from fedkr.report.coverage import not_tested, tested
from fedkr.report.elements import (
    Cell,
    Markup,
    bullets,
    definitions,
    folded,
    heading,
    notice,
    paragraph,
    section,
    svg_figure,
    table,
)
from fedkr.report.results import Results, headline_rows
from fedkr.report.wording import (
    ADVERSARY_MEANING,
    NONE,
    attack_label,
    auc_interval,
    percent,
    references_label,
    strategy_label,
    target_label,
    tpr_interval,
)

Figures = Mapping[str, Figure]
Cells = list[list[Cell]]

TITLE = "What an attacker could learn"
MATRIX_SITES = 5
OPEN_REASONS = 9

INTRO = (
    "Each site attacks the models itself, next to its private images: can the attack tell an image that was trained on "
    "(member) from one that was set apart (non-member)? Only these figures leave the site. The images that are most "
    "exposed, and suspected copies, stand in the site's own local report, which stays in its workspace."
)
RULE = (
    f"The rule: 'leakage found' where the headline AUC's 95 % interval lies above {CHANCE}. 'No leakage found' only "
    f"where it ends at {LARGEST_PASS} or below, by {attack_label(STRONGEST)} (with pipeline references for what was "
    "trained on releases), and the same attack detects the site's own teacher; a release passes only together with the "
    "student of that site's releases. Everything else is 'cannot tell': a small site never passes by being small."
)
VOID_LINE = (
    "{site}: audit void. Members and non-members can be told apart by their images alone, so that no figure below "
    "is about membership."
)


def audit_section(results: Results, figures: Figures) -> str:
    """Return the audit's section; of a run without an audit, a sentence that says so."""
    if not results.get("audit"):
        return section("audit", TITLE, paragraph(audit_verdict(results)))
    return section(
        "audit",
        TITLE,
        paragraph(INTRO),
        notice("Audit void:", [VOID_LINE.format(site=site) for site in void_sites(results)]),
        _verdicts(results),
        _coverage(results),
        _plane(results, figures),
        _forest(results, figures),
        _roc(results, figures),
        audit_details(results),
    )


def _verdicts(results: Results) -> str:
    rows = verdict_rows(results)
    few = len(audited_sites(results)) <= MATRIX_SITES
    reasons = _reasons(rows, results)
    return "\n".join(
        [
            heading("Verdict"),
            _verdict_matrix(results, rows) if few else _verdict_counts(results),
            paragraph(RULE, "quiet"),
            folded(
                "Why",
                "the reason of each verdict",
                table(["target", "verdict", "sites", "reason"], reasons, 4, [""] * len(reasons)),
                opened=len(reasons) <= OPEN_REASONS,
            ),
        ]
    )


def _reasons(rows: list[VerdictRow], results: Results) -> Cells:
    """Return a row for each reason, with the sites that share it."""
    sites: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in rows:
        sites[row["target"], row["verdict"], row.get("reason", "")].append(row["site"])
    return [
        [target_label(target, results), verdict_pill(verdict), ", ".join(names), reason]
        for (target, verdict, reason), names in sites.items()
    ]


def _verdict_matrix(results: Results, rows: list[VerdictRow]) -> str:
    sites = list(dict.fromkeys(row["site"] for row in rows))
    found = {(row["target"], row["site"]): row["verdict"] for row in rows}
    targets = list(dict.fromkeys(row["target"] for row in rows))
    cells: Cells = [
        [_target(target, results), *(verdict_pill(found.get((target, site), NONE)) for site in sites)]
        for target in targets
    ]
    return table(["target", *sites], cells, len(sites) + 1, _adversary_rules(targets, results))


def _verdict_counts(results: Results) -> str:
    targets = [target for target in audited_targets(results) if verdict_counts(results, target)]
    counts = {target: verdict_counts(results, target) for target in targets}
    cells: Cells = [[_target(t, results), *(f"{counts[t][kind]:,}" for kind in VERDICTS)] for t in targets]
    titles = ["target", *(f"{kind} (sites)" for kind in VERDICTS)]
    return table(titles, cells, 1, _adversary_rules(targets, results))


def _target(target: str, results: Results) -> Markup:
    who = _who(target, results)
    meaning = f"{who}: {ADVERSARY_MEANING[who]}" if who in ADVERSARY_MEANING else who
    return _two_lines(target_label(target, results), meaning)


def _who(target: str, results: Results) -> str:
    return next((adversary(row) for row in results.get("audit", []) if row["target"] == target), "")


def _adversary_rules(targets: Sequence[str], results: Results) -> list[str]:
    """Return a row style each: a stronger rule where the next adversary begins."""
    who = [_who(target, results) for target in targets]
    return ["first" if index and who[index] != who[index - 1] else "" for index in range(len(who))]


def _coverage(results: Results) -> str:
    notes = results.get("audit_extras", {}).get("notes", [])
    return "\n".join(
        [
            heading("What was tested, and what was not"),
            definitions(tested(results)),
            folded(
                "Not tested",
                "what these verdicts say nothing about",
                bullets(not_tested(results)),
            ),
            notice("Notes of the audit:", notes),
        ]
    )


def _plane(results: Results, figures: Figures) -> str:
    points = plane_points(results)
    if not points:
        return ""
    cells: Cells = [
        [
            _two_lines(strategy_label(point.strategy), target_label(point.row["target"], results)),
            adversary(point.row),
            _attack(point.row),
            percent(point.accuracy),
            auc_interval(point.row),
            tpr_interval(point.row),
            NONE if point.aop is None else f"{point.aop:.1f}",
        ]
        for point in points
    ]
    titles = [
        "strategy, and what is attacked",
        "adversary",
        "attack",
        "accuracy",
        "AUC [95 %]",
        "TPR at 1 % FPR",
        "AOP",
    ]
    return "\n".join(
        [
            heading("Use against privacy"),
            svg_figure(
                figures.get("plane"),
                "Accuracy of each strategy against AUC and TPR of the attack, a line of panels for each adversary",
                "Accuracy on the global test images against the headline attack over all sites, with 95 % intervals. "
                "Up and left is better. Hollow: pipeline references. Compare strategies under one adversary and one "
                "kind of references.",
            ),
            table(titles, cells, 3, ["ours" if p.strategy == "fedkr" else "" for p in points]),
            paragraph("AOP, accuracy over privacy: accuracy in percent / (2 max(AUC, 0.5))².", "quiet"),
        ]
    )


def _two_lines(first: str, second: str) -> Markup:
    below = f"<small>{escape(second)}</small>" if second else ""
    return Markup(f"<b>{escape(first)}</b>{below}")


def _attack(row: AuditRow) -> Markup:
    references = references_label(row.get("references"))
    below = f"<small>{escape(references)} references</small>" if references else ""
    return Markup(f"{escape(attack_label(row['attack']))}{below}")


def _forest(results: Results, figures: Figures) -> str:
    rows = [row for shown in headline_by_target(results).values() for row in shown]
    cells: Cells = []
    styles, previous = [], ""
    for row in rows:
        target = target_label(row["target"], results)
        new = target != previous
        sizes = [f"{row.get(side, 0):,}" for side in ("members", "nonmembers")]
        cells.append([Markup(f"<b>{escape(target)}</b>") if new else "", *figure_cells(row), *sizes])
        styles.append("first" if previous and new else "")
        previous = target
    titles = ["target", *FIGURE_TITLES, "members", "non-members"]
    key = Markup('<span class="leak">Marked</span>: the 95 % interval lies above guessing (AUC 0.5).')
    return "\n".join(
        [
            heading("The headline attack"),
            svg_figure(
                figures.get("forest"),
                "AUC of the headline attack with its 95 % interval, for each target and site",
                "Diamond: all sites together, members against non-members of the same site only.",
            ),
            folded("As numbers", f"{len(rows)} rows", table(titles, cells, 3, styles), paragraph(key, "quiet")),
        ]
    )


def _roc(results: Results, figures: Figures) -> str:
    rows = headline_rows(results)
    attack = attack_label(rows[0]["attack"])
    return svg_figure(
        figures.get("roc"),
        f"ROC curves of the {attack} attack on log-log axes, one panel per target, one line per site",
        f"ROC of the headline attack ({attack}), log-log, with 95 % intervals at the FPRs that were set beforehand. "
        "Low false-positive rates matter most: there an attacker is sure of single images. In the grey area the sites "
        "have too few non-members to say anything.",
    ) + paragraph(
        "Chance level is an AUC of 0.5 and a TPR equal to the FPR. 'Not resolvable' means too few non-members for that "
        "FPR; it does not mean zero. The headline attack was named before the run; the others below are not a choice "
        "to pick the best from.",
        "quiet",
    )
