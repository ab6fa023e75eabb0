"""The audit's figures: ROC curves, every headline AUC with its interval, and accuracy against what leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from fedkr.audit.statistics.pooling import ALL_SITES
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
)
from fedkr.report.wording import (
    ADVERSARY_MEANING,
    references_label,
    row_fprs,
    shortened,
    strategy_label,
    target_label,
    tpr_figures,
)

PLANE_FPR = 0.01
# No tick above 100 %, and room for half a marker.
ACCURACY_TOP = 1.003
_MARKERS = {"release": "s", "update": "^"}
_PART = {
    "release": ": released images",
    "site-student": ": one site's student",
    "update": ": a site's update",
    "local": ": never leaves its site",
}


def roc_chart(results: Results) -> Figure | None:
    """Return the headline attack's ROC on log-log axes: a panel per target, a line per site, 95 % bars at the FPRs."""
    by_target = {
        target: rows for target, rows in headline_by_target(results).items() if any(row.get("roc") for row in rows)
    }
    if not by_target:
        return None
    columns = min(3 if len(by_target) > 4 else 2, len(by_target))
    side = 4.3 if columns < 3 else 3.2
    figure = new_figure(side * columns, (side - 0.3) * -(-len(by_target) // columns) + 0.3)
    axes = panel_grid(figure, len(by_target), columns, share_x=True)
    everything = [row for rows in by_target.values() for row in rows]
    floor = 0.5 / max(row.get("nonmembers", 0) or 100 for row in everything)
    sites = list(dict.fromkeys(row["site"] for row in everything if row["site"] != ALL_SITES))
    for ax, (target, rows) in zip(axes, by_target.items(), strict=True):
        _roc_panel(ax, shortened(target_label(target, results), LONGEST), rows, sites, floor)
    for ax in axes[-columns:]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("false-positive rate")
    if len(sites) <= MANY_LINES:
        known = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(known.values(), known, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _roc_panel(ax: Axes, title: str, rows: list[AuditRow], sites: list[str], floor: float) -> None:
    clean_axes(ax, title, grid="both")
    ax.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1), aspect="equal")
    resolved = 1 / max(row.get("nonmembers", 0) or 100 for row in rows)
    ax.axvspan(floor, resolved, color="#eceff2", zorder=0, linewidth=0)
    middle = (floor * resolved) ** 0.5
    ax.text(middle, 0.9, "not resolvable", fontsize=8, color=QUIET, rotation=90, ha="center", va="top")
    ax.plot([floor, 1], [floor, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
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
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g}%"))
        axis.set_minor_formatter(NullFormatter())
    ax.set_ylabel("true-positive rate")
    ax.label_outer()


def _tpr_bars(ax: Axes, row: AuditRow, colour: str, floor: float, shift: float) -> None:
    """Draw the interval of each resolvable TPR, moved sideways by a factor so that the sites' bars stand apart."""
    for fpr in row_fprs(row):
        tpr, low, high = tpr_figures(row, fpr)
        if tpr is None or low is None or high is None or high <= floor:
            continue
        ax.plot([fpr * shift] * 2, [max(low, floor), high], color=colour, linewidth=1.1, alpha=0.75)
        pooled = row["site"] == ALL_SITES
        label = ALL_SITES if pooled else None
        marker, size = ("D", 4.2) if pooled else ("o", 3.4)
        ax.plot(fpr * shift, max(tpr, floor), linestyle="", marker=marker, markersize=size, color=colour, label=label)


def forest_chart(results: Results) -> Figure | None:
    """Return every headline AUC with its 95 % interval: a group per target, a line per site, the pooled one last."""
    groups = {
        target: _shown([row for row in rows if row.get("auc") is not None])
        for target, rows in headline_by_target(results).items()
    }
    groups = {target: rows for target, rows in groups.items() if rows}
    if not groups:
        return None
    sites = audited_sites(results)
    lines = sum(len(rows) + 1.5 for rows in groups.values())
    figure = new_figure(7.8, 0.8 + 0.2 * lines)
    ax = clean_axes(figure.add_subplot(), grid="x")
    y, titles, names = 0.0, {}, {}
    for target, rows in groups.items():
        titles[y] = _group_title(target, rows, results)
        for row in rows:
            y += 1
            _forest_line(ax, y, row, sites)
            names[y] = shortened(row["site"], LONGEST)
        y += 1.5
    ax.axvline(CHANCE, color=INK, linewidth=1, zorder=1)
    ax.axvline(LARGEST_PASS, color=QUIET, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    labels = dict(sorted((titles | names).items()))
    ax.set_yticks(list(labels), list(labels.values()))
    for place, tick in zip(labels, ax.get_yticklabels(), strict=True):
        tick.set(fontweight="bold" if place in titles else "normal", color=INK if place in titles else QUIET)
    ax.set_ylim(y - 0.7, -0.8)
    ax.set_xlabel("AUC of the headline attack · line: guessing · dots: limit of 'no leakage found'")
    ax.spines["left"].set_visible(False)
    return figure


def _shown(rows: list[AuditRow]) -> list[AuditRow]:
    """Return all rows of a few sites; of many, the highest ones and the pooled one."""
    sites = [row for row in rows if row["site"] != ALL_SITES]
    if len(sites) <= MANY_LINES:
        return rows
    highest = sorted(sites, key=lambda row: row["auc"] or 0.0, reverse=True)[: MANY_LINES // 2]
    return [*highest, *(row for row in rows if row["site"] == ALL_SITES)]


def _group_title(target: str, rows: Sequence[Mapping[str, Any]], results: Results) -> str:
    references = references_label(rows[0])
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
    points = plane_points(results)
    lines = {
        OUTSIDER: [p for p in points if adversary(p.row) != SERVER],
        SERVER: [p for p in points if adversary(p.row) == SERVER],
    }
    lines = {who: shown for who, shown in lines.items() if shown}
    if not lines:
        return None
    figure = new_figure(9.0, 3.3 * len(lines))
    axes = figure.subplots(len(lines), 3, squeeze=False, width_ratios=(1, 1, 0.55), gridspec_kw={"hspace": 0.12})
    for line, (who, shown) in zip(axes, lines.items(), strict=True):
        title = f"{who}: {ADVERSARY_MEANING[who]}"
        _plane_panel(line[0], shown, title, ("auc", "auc_low", "auc_high"), CHANCE)
        key = f"tpr_at_fpr_{PLANE_FPR:g}"
        _plane_panel(line[1], shown, "", (key, f"{key}_low", f"{key}_high"), PLANE_FPR)
        line[1].xaxis.set_major_formatter(PercentFormatter(1.0))
        line[0].set_xlabel("AUC of the attack (left is better)")
        line[1].set_xlabel("TPR at 1 % FPR (left is better)")
        line[0].set_ylabel("accuracy")
        line[2].set_axis_off()
        line[2].legend(
            handles=[_plane_handle(p, results) for p in shown], loc="center left", frameon=False, fontsize=8.5
        )
    return figure


def _plane_panel(ax: Axes, points: list[PlanePoint], title: str, keys: tuple[str, str, str], chance: float) -> None:
    clean_axes(ax, title, grid="both")
    ax.axvline(chance, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    known = 0
    for point in points:
        row: Mapping[str, Any] = point.row
        x, low, high = (row.get(key) for key in keys)
        if x is None:
            continue
        known += 1
        if low is not None and high is not None:
            ax.plot([low, high], [point.accuracy] * 2, color=strategy_colour(point.strategy), linewidth=1.4, alpha=0.7)
        ax.plot(x, point.accuracy, linestyle="", **_plane_marker(point))
    if not known:
        ax.text(0.5, 0.5, "not resolvable", ha="center", color=QUIET, fontsize=9, transform=ax.transAxes)
    accuracies = [point.accuracy for point in points]
    middle = (max(accuracies) + min(accuracies)) / 2
    half = 0.62 * max(max(accuracies) - min(accuracies), 0.05)
    ax.set_ylim(middle - half, min(middle + half, ACCURACY_TOP))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _plane_marker(point: PlanePoint) -> dict[str, Any]:
    colour = strategy_colour(point.strategy)
    hollow = point.row.get("references") == "pipeline"
    face = "white" if hollow else colour
    return {
        "marker": _MARKERS.get(point.kind, "o"),
        "markersize": 7.5,
        "markerfacecolor": face,
        "markeredgecolor": colour,
        "markeredgewidth": 1.6,
    }


def _plane_handle(point: PlanePoint, results: Results) -> Line2D:
    name = shortened(strategy_label(point.strategy), LONGEST) + _PART.get(point.kind, "")
    references = references_label(point.row)
    text = f"{name}\n{references} references" if references else name
    return Line2D([], [], linestyle="", label=text, color=RULE, **_plane_marker(point))
