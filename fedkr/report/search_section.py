"""The page's search: every generator checkpoint and sampler setting that a site scored on val, and what it chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedkr.report.elements import Cell, folded, heading, paragraph, section, svg_figure, table
from fedkr.report.results import Results, SiteRecycling
from fedkr.report.style import CYCLE, MANY_LINES, QUIET, RULE, clean_axes, new_figure, series_style
from fedkr.report.wording import NONE, decimal, label_text, percent

Figures = Mapping[str, Figure]
COLUMNS = 3
MOST_TICKS = 4
METRICS = {"accuracy": "accuracy", "auc": "AUC"}

INTRO = (
    "Every checkpoint of a site's generator, then every setting of its sampler, is scored by a classifier that "
    "trains on the generated images alone and is tested on the site's val split."
)
CAPTION = (
    "Curve: checkpoints by generator step. Right of the line: settings of the sampler on the chosen checkpoint, in the "
    "order in which they were tried. Ring: chosen."
)
HALVED = " Those that successive halving dropped have the score at which it dropped them."
TOLERATED = " A later checkpoint was taken before a better one where the two scores differ by no more than noise."
RECALLS = (
    "Share of each class' val images that the chosen setting's classifier recognises: where it is low, the generator "
    "draws the class badly. A dash: too few val images of the class, whose recall would tell of single ones."
)


@dataclass(frozen=True)
class Candidate:
    """One checkpoint, or one setting of the sampler, as its site scored it.

    Attributes:
        name: in words.
        step: of the checkpoint; None for a setting.
        score: on val, higher is better; None where it has none.
        loss: on val, which decides between equal scores; None where it has none.
        chosen: whether the site went on with it.
    """

    name: str
    step: int | None
    score: float | None
    loss: float | None
    chosen: bool = False


def checkpoints(tried: SiteRecycling) -> list[Candidate]:
    """Return a site's checkpoints by step; the chosen one is the one it names, else the best."""
    rows = sorted(tried.get("checkpoints", []), key=lambda row: row["step"])
    found = [Candidate(f"step {row['step']:,}", row["step"], row["score"], row.get("loss")) for row in rows]
    return _with_choice(found, f"step {tried['checkpoint']:,}" if "checkpoint" in tried else None)


def settings(tried: SiteRecycling) -> list[Candidate]:
    """Return a site's sampler settings in the order of the search; the chosen one is the one it names, else the best.

    A setting that met the next ones as the best so far stands here once.
    """
    rows = {knobs_text(row["knobs"]): row for row in reversed(tried.get("tuning", []))}
    names = list(dict.fromkeys(knobs_text(row["knobs"]) for row in tried.get("tuning", [])))
    found = [Candidate(name, None, rows[name]["score"], rows[name].get("loss")) for name in names]
    return _with_choice(found, knobs_text(tried["knobs"]) if "knobs" in tried else None)


def knobs_text(knobs: Mapping[str, Any]) -> str:
    """Return a setting of the sampler as 'steps 18, guidance 1.5'."""
    values = {name: f"{value:g}" if isinstance(value, (int, float)) else str(value) for name, value in knobs.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "as given"


def _with_choice(found: list[Candidate], named: str | None) -> list[Candidate]:
    known = [candidate for candidate in found if candidate.score is not None]
    if named is None and known:
        named = max(known, key=lambda c: (c.score or 0.0, -(c.loss or 0.0))).name
    return [Candidate(c.name, c.step, c.score, c.loss, c.name == named) for c in found]


def _metric(results: Results) -> str:
    recycle = results.get("study", {}).get("recycle") or {}
    return str(recycle.get("metric", "accuracy"))


def site_search_chart(results: Results) -> Figure | None:
    """Return a panel a site: its checkpoints as a curve, its sampler settings beside it; many sites share one panel."""
    tried = {
        site: (checkpoints(entry), settings(entry))
        for site, entry in results.get("recycling", {}).items()
        if any(candidate.score is not None for candidate in checkpoints(entry))
    }
    if not tried:
        return None
    panels = 1 if len(tried) > MANY_LINES else len(tried)
    columns = min(COLUMNS, panels)
    lines = -(-panels // columns)
    figure = new_figure(9.0 if panels > 1 else 7.0, 0.5 + 2.2 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    if panels == 1 < len(tried):
        _shared_panel(axes[0], [curve for curve, _ in tried.values()])
    else:
        for ax, (site, (curve, tuned)) in zip(axes, tried.items(), strict=False):
            _site_panel(ax, site, curve, tuned)
    for ax in axes[panels:]:
        ax.set_axis_off()
    metric = _metric(results)
    for ax in axes[::columns]:
        ax.set_ylabel(f"{METRICS.get(metric, metric)} on val", fontsize=9)
    if metric == "accuracy":
        axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def _points(candidates: list[Candidate]) -> list[tuple[float, float, bool]]:
    return [(float(c.step or 0), c.score, c.chosen) for c in candidates if c.score is not None]


def _shared_panel(ax: Axes, curves: list[list[Candidate]]) -> None:
    clean_axes(ax, grid="y")
    for index, curve in enumerate(curves):
        x, y, _ = zip(*_points(curve), strict=True)
        ax.plot(x, y, linewidth=1, **series_style(index))
    ax.set_xlabel("generator step · a line for each site", fontsize=9)


def _site_panel(ax: Axes, site: str, curve: list[Candidate], tuned: list[Candidate]) -> None:
    clean_axes(ax, label_text(site, 24), grid="y")
    points, own = _points(curve), _points(tuned)
    steps = [step for step, _, _ in points]
    ax.plot(steps, [score for _, score, _ in points], color=CYCLE[0], linewidth=1.7, marker="o", markersize=3.5)
    _ring(ax, points, CYCLE[0])
    shown = steps if len(steps) <= MOST_TICKS else [steps[0], steps[len(steps) // 2], steps[-1]]
    ticks, labels = list(shown), [f"{step:,.0f}" for step in shown]
    if own:
        width = max(steps[-1] - steps[0], 0.5 * steps[-1], 1)
        places = np.linspace(steps[-1] + 0.2 * width, steps[-1] + 0.65 * width, len(own))
        ax.axvline(steps[-1] + 0.1 * width, color=RULE, linewidth=1)
        ax.plot(places, [score for _, score, _ in own], linestyle="", color=CYCLE[1], marker="s", markersize=4)
        _ring(ax, [(x, score, chosen) for x, (_, score, chosen) in zip(places, own, strict=True)], CYCLE[1])
        ticks.append(float(places.mean()))
        labels.append("sampler")
    ax.set_xticks(ticks, labels, fontsize=8, color=QUIET)


def _ring(ax: Axes, points: list[tuple[float, float, bool]], colour: str) -> None:
    for x, y, chosen in points:
        if chosen:
            ax.scatter(x, y, s=60, facecolor="white", edgecolor=colour, linewidth=1.8, zorder=3)


def search_section(results: Results, figures: Figures) -> str:
    """Return the section: how each site chose, and how the weight-sharing baseline did."""
    tried = results.get("recycling", {})
    recycle = results.get("study", {}).get("recycle") or {}
    remarks = HALVED * (recycle.get("search_rungs", 1) > 1) + TOLERATED * (recycle.get("search_tolerance", 0) > 0)
    weights = svg_figure(
        figures.get("weights_search"),
        "Validation accuracy of the weight-sharing baseline by round",
        "The weight-sharing baseline's settings and round are chosen on the sites' val splits.",
    )
    return section(
        "recycling",
        "How the sites chose",
        paragraph(INTRO) if tried else "",
        svg_figure(
            figures.get("site_search"),
            "Score on val of each generator checkpoint and sampler setting, a panel for each site",
            CAPTION + remarks,
        ),
        _choices(results),
        _candidates(results),
        _recalls(results),
        heading("Weight-sharing baseline") + weights if weights else "",
    )


def _score(candidate: Candidate | None, results: Results) -> str:
    if candidate is None:
        return NONE
    return percent(candidate.score) if _metric(results) == "accuracy" else decimal(candidate.score)


def _choices(results: Results) -> str:
    rows: list[list[Cell]] = []
    for site, tried in results.get("recycling", {}).items():
        best, tuned = (next((c for c in found if c.chosen), None) for found in (checkpoints(tried), settings(tried)))
        rows.append(
            [
                site,
                tuned.name if tuned else NONE,
                ", ".join(tried.get("left_out", [])) or "none",
                best.name if best else NONE,
                _score(best, results),
                _score(tuned, results),
                percent((tried.get("teacher") or {}).get("val_accuracy")),
            ]
        )
    titles = ["site", "sampler chosen", "classes left out", "checkpoint chosen", "its score", "tuned score"]
    return table([*titles, "teacher on val"], rows, 3, [""] * len(rows)) if rows else ""


def _candidates(results: Results) -> str:
    rows: list[list[Cell]] = []
    styles = []
    for site, tried in results.get("recycling", {}).items():
        found = [*checkpoints(tried), *settings(tried)]
        rows += [[site, c.name, "chosen" if c.chosen else "", _score(c, results), decimal(c.loss)] for c in found]
        styles += ["ours" if c.chosen else "" for c in found]
    titles = ["site", "checkpoint or sampler setting", "", "score on val", "loss on val"]
    return folded("Every candidate", f"{len(rows)} scored", table(titles, rows, 3, styles)) if rows else ""


def _recalls(results: Results) -> str:
    classes, rows = results.get("classes", []), list[list[Cell]]()
    for site, tried in results.get("recycling", {}).items():
        if recalls := tried.get("recalls"):
            out = tried.get("left_out", [])
            known = zip_longest(classes, recalls[: len(classes)])
            rows.append([site, *("left out" if name in out else percent(recall, 0) for name, recall in known)])
    if not rows:
        return ""
    titles = ["site", *classes]
    return (
        heading("What the released images teach, by class")
        + paragraph(RECALLS, "quiet")
        + table(titles, rows, 1, [""] * len(rows))
    )
