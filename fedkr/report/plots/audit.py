"""The audit's figures: ROC curves, every headline AUC with its interval, and accuracy against what leaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from fedkr.audit.verdict import CHANCE, LARGEST_PASS
from fedkr.report.audit_fields import AuditRow
from fedkr.report.plots.style import (
    INK,
    LONGEST,
    MANY_LINES,
    QUIET,
    RULE,
    clean_axes,
    new_figure,
    panel_grid,
    series_style,
    strategy_colour,
)
from fedkr.report.results import Results
from fedkr.report.selection import (
    OUTSIDER,
    SERVER,
    PlanePoint,
    adversary,
    audited_sites,
    headline_by_target,
    plane_points,
    references_kind,
)
from fedkr.report.wording import (
    ADVERSARY_MEANING,
    measured_fprs,
    shortened,
    strategy_label,
    target_label,
    tpr_figures,
)
from fedkr.site_name import ALL_SITES

PLANE_FPR = 0.01
# No tick above 100 %, and room for half a marker.
ACCURACY_TOP = 1.003
GUESSING: dict[str, Any] = {"color": QUIET, "linewidth": 1, "linestyle": (0, (4, 3))}
_MARKERS = {"release": "s", "update": "^", "rounds": "v"}
_PART = {
    "release": ": released images",
    "site-student": ": one site's student",
    "update": ": a site's update",
    "rounds": ": a site's rounds",
    **dict.fromkeys(("local", "personal"), ": never leaves its site"),
}


def roc_chart(results: Results) -> Figure | None:
    """Return the headline attack's ROC on log-log axes: a panel per target, a line per site, 95 % bars at the FPRs."""
    by_target = {t: rows for t, rows in headline_by_target(results).items() if any(row.get("roc") for row in rows)}
    if not by_target:
        return None
    columns = min(3 if len(by_target) > 4 else 2, len(by_target))
    side = 4.3 if columns < 3 else 3.2
    figure = new_figure(side * columns, (side - 0.3) * -(-len(by_target) // columns) + 0.3)
    axes = panel_grid(figure, len(by_target), columns, share_x=True)
    everything = [row for rows in by_target.values() for row in rows]
    floor = 0.5 * _resolution(everything)
    sites = list(dict.fromkeys(row["site"] for row in everything if row["site"] != ALL_SITES))
    for ax, (target, rows) in zip(axes, by_target.items(), strict=True):
        _roc_axes(ax, shortened(target_label(target, results), LONGEST), floor, _resolution(rows))
        _roc_lines(ax, rows, sites, floor)
    for ax in axes[-columns:]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("false-positive rate")
    if len(sites) <= MANY_LINES:
        known = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(known.values(), known, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _resolution(rows: list[AuditRow]) -> float:
    """Return the least FPR that the rows' non-members can resolve."""
    return 1 / max(row.get("nonmembers", 0) or 100 for row in rows)


def _roc_axes(ax: Axes, title: str, floor: float, resolved: float) -> None:
    clean_axes(ax, title, grid="both")
    ax.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1), aspect="equal", ylabel="true-positive rate")
    ax.axvspan(floor, resolved, color="#eceff2", zorder=0, linewidth=0)
    middle = (floor * resolved) ** 0.5
    ax.text(middle, 0.9, "not resolvable", fontsize=8, color=QUIET, rotation=90, ha="center", va="top")
    ax.plot([floor, 1], [floor, 1], **GUESSING, label="guessing")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g}%"))
        axis.set_minor_formatter(NullFormatter())
    ax.label_outer()


def _roc_lines(ax: Axes, rows: list[AuditRow], sites: list[str], floor: float) -> None:
    for index, row in enumerate(rows):
        pooled = row["site"] == ALL_SITES
        style = {"color": INK} if pooled else series_style(sites.index(row["site"]))
        thin = len(sites) > MANY_LINES and not pooled
        if row.get("roc"):
            points = np.clip(np.asarray(row["roc"], float), floor, 1)
            points = points[points[:, 0] > floor]
            ax.plot(*points.T, label=shortened(row["site"], LONGEST), linewidth=0.9 if thin else 1.7, **style)
        if not thin:
            _tpr_bars(ax, row, style["color"], floor, 1.12 ** (index - (len(rows) - 1) / 2))


def _tpr_bars(ax: Axes, row: AuditRow, colour: str, floor: float, shift: float) -> None:
    """Draw the interval of each resolvable TPR, moved sideways by a factor so that the sites' bars stand apart."""
    pooled = row["site"] == ALL_SITES
    marker, size = ("D", 4.2) if pooled else ("o", 3.4)
    label = ALL_SITES if pooled else None
    for fpr in measured_fprs([row]):
        tpr, low, high = tpr_figures(row, fpr)
        if tpr is None or low is None or high is None or high <= floor:
            continue
        ax.plot([fpr * shift] * 2, [max(low, floor), high], color=colour, linewidth=1.1, alpha=0.75)
        ax.plot(fpr * shift, max(tpr, floor), linestyle="", marker=marker, markersize=size, color=colour, label=label)


def forest_chart(results: Results) -> Figure | None:
    """Return every headline AUC with its 95 % interval: a group per target, a line per site, the pooled one last."""
    groups = {target: _shown(rows) for target, rows in headline_by_target(results).items()}
    groups = {target: rows for target, rows in groups.items() if rows}
    if not groups:
        return None
    sites = audited_sites(results)
    figure = new_figure(7.8, 0.8 + 0.2 * sum(len(rows) + 1.5 for rows in groups.values()))
    ax = clean_axes(figure.add_subplot(), grid="x")
    y, labels = -1.5, {}
    for target, rows in groups.items():
        y += 1.5
        labels[y] = _group_title(target, rows[0], results), {"fontweight": "bold", "color": INK}
        for row in rows:
            y += 1
            _forest_line(ax, y, row, sites)
            labels[y] = shortened(row["site"], LONGEST), {"color": QUIET}
    ax.axvline(CHANCE, color=INK, linewidth=1, zorder=1)
    ax.axvline(LARGEST_PASS, color=QUIET, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    ax.set_yticks(list(labels), [text for text, _ in labels.values()])
    for tick, (_, style) in zip(ax.get_yticklabels(), labels.values(), strict=True):
        tick.set(**style)
    ax.set_ylim(y + 0.8, -0.8)
    ax.set_xlabel("AUC of the headline attack · line: guessing · dots: limit of 'no leakage found'")
    ax.spines["left"].set_visible(False)
    return figure


def _shown(rows: list[AuditRow]) -> list[AuditRow]:
    """Return the rows with an AUC: all of a few sites; of many, the highest ones and the pooled one."""
    rows = [row for row in rows if row.get("auc") is not None]
    sites = [row for row in rows if row["site"] != ALL_SITES]
    if len(sites) <= MANY_LINES:
        return rows
    highest = sorted(sites, key=lambda row: row["auc"] or 0.0, reverse=True)[: MANY_LINES // 2]
    return [*highest, *(row for row in rows if row["site"] == ALL_SITES)]


def _group_title(target: str, row: AuditRow, results: Results) -> str:
    references = references_kind(row)
    return shortened(target_label(target, results), LONGEST) + (f" · {references}" if references else "")


def _forest_line(ax: Axes, y: float, row: AuditRow, sites: list[str]) -> None:
    pooled = row["site"] == ALL_SITES
    colour = INK if pooled else series_style(sites.index(row["site"]))["color"]
    auc, low, high = row["auc"] or 0.0, row.get("auc_low"), row.get("auc_high")
    if low is not None and high is not None:
        ax.plot([low, high], [y, y], color=colour, linewidth=2.2 if pooled else 1.5, solid_capstyle="butt")
    ax.plot(auc, y, marker="D" if pooled else "o", markersize=5.5 if pooled else 4.5, color=colour)


def plane_chart(results: Results) -> Figure | None:
    """Return accuracy against the pooled attack's AUC and against its TPR at 1 % FPR, a line of panels per adversary.

    The sites' own models, which nobody else sees, stand with the outsider's: that is where all final models are.
    """
    lines: dict[str, list[PlanePoint]] = {OUTSIDER: [], SERVER: []}
    for point in plane_points(results):
        lines[SERVER if adversary(point.row) == SERVER else OUTSIDER].append(point)
    lines = {who: points for who, points in lines.items() if points}
    if not lines:
        return None
    figure = new_figure(9.0, 3.3 * len(lines))
    axes = figure.subplots(len(lines), 3, squeeze=False, width_ratios=(1, 1, 0.55), gridspec_kw={"hspace": 0.12})
    for (left, right, names), (who, points) in zip(axes, lines.items(), strict=True):
        _plane_panel(left, points, "auc", CHANCE)
        _plane_panel(right, points, f"tpr_at_fpr_{PLANE_FPR:g}", PLANE_FPR)
        clean_axes(left, f"{who}: {ADVERSARY_MEANING[who]}")
        left.set(xlabel="AUC of the attack (left is better)", ylabel="accuracy")
        right.set_xlabel("TPR at 1 % FPR (left is better)")
        right.xaxis.set_major_formatter(PercentFormatter(1.0))
        names.set_axis_off()
        handles = [_plane_handle(point) for point in points]
        names.legend(handles=handles, loc="center left", frameon=False, fontsize=8.5)
    return figure


def _plane_panel(ax: Axes, points: list[PlanePoint], figure: str, chance: float) -> None:
    clean_axes(ax, grid="both")
    ax.axvline(chance, **GUESSING, zorder=1)
    known = 0
    for point in points:
        row: Mapping[str, Any] = point.row
        x, low, high = (row.get(f"{figure}{end}") for end in ("", "_low", "_high"))
        if x is None:
            continue
        known += 1
        if low is not None and high is not None:
            ax.plot([low, high], [point.accuracy] * 2, color=strategy_colour(point.strategy), linewidth=1.4, alpha=0.7)
        ax.plot(x, point.accuracy, linestyle="", **_plane_marker(point))
        if (guessing := row.get(f"guessing_{figure}")) is not None:
            ax.plot(guessing, point.accuracy, linestyle="", marker="|", markersize=9, color=QUIET)
    if not known:
        ax.text(0.5, 0.5, "not resolvable", ha="center", color=QUIET, fontsize=9, transform=ax.transAxes)
    least, most = min(point.accuracy for point in points), max(point.accuracy for point in points)
    middle, half = (most + least) / 2, 0.62 * max(most - least, 0.05)
    ax.set_ylim(middle - half, min(middle + half, ACCURACY_TOP))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _plane_marker(point: PlanePoint) -> dict[str, Any]:
    colour = strategy_colour(point.strategy)
    return {
        "marker": _MARKERS.get(point.kind, "o"),
        "markersize": 7.5,
        "markerfacecolor": "white" if point.row.get("references") == "pipeline" else colour,
        "markeredgecolor": colour,
        "markeredgewidth": 1.6,
    }


def _plane_handle(point: PlanePoint) -> Line2D:
    name = shortened(strategy_label(point.strategy), LONGEST) + _PART.get(point.kind, "")
    references = references_kind(point.row)
    text = f"{name}\n{references} references" if references else name
    return Line2D([], [], linestyle="", label=text, color=RULE, **_plane_marker(point))
