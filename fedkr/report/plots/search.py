"""How each site chose its generator, and how the settings of those that share weights did."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedkr.report.plots.style import (
    CYCLE,
    LONGEST,
    MANY_LINES,
    QUIET,
    RULE,
    clean_axes,
    new_figure,
    panel_grid,
    ring,
    series_style,
)
from fedkr.report.results import Results
from fedkr.report.search import Candidate, SiteSearch, pareto_front, search_metric, site_searches
from fedkr.report.wording import setting_text, shortened, strategy_label

COLUMNS = 3
MOST_TICKS = 4
# Round 0 is the model that training begins with.
NO_ROUND = -1


def site_search_chart(results: Results) -> Figure | None:
    """Return a panel a site: its checkpoints as a curve, its sampler settings beside it; many sites share one panel."""
    searches = {site: found for site, found in site_searches(results).items() if _scored(found.checkpoints)}
    if not searches:
        return None
    figure, axes = _panels(len(searches))
    if len(axes) < len(searches):
        _shared_panel(axes[0], list(searches.values()))
    else:
        for ax, (site, search) in zip(axes, searches.items(), strict=True):
            _site_panel(ax, site, search)
    metric = search_metric(results)
    for ax in axes[::COLUMNS]:
        ax.set_ylabel(f"{'AUC' if metric == 'auc' else metric} on val")
    if metric == "accuracy":
        axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def _panels(sites: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each site, or with one that all share where there are many."""
    panels = 1 if sites > MANY_LINES else sites
    figure = new_figure(9.0 if panels > 1 else 7.0, 0.5 + 2.2 * -(-panels // COLUMNS))
    return figure, panel_grid(figure, panels, min(COLUMNS, panels))


def _scored(candidates: list[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.score is not None]


def _shared_panel(ax: Axes, searches: list[SiteSearch]) -> None:
    clean_axes(ax, grid="y")
    for index, search in enumerate(searches):
        curve = _scored(search.checkpoints)
        ax.plot([c.step or 0 for c in curve], [c.score or 0.0 for c in curve], linewidth=1, **series_style(index))
    ax.set_xlabel("generator step · a line for each site")


def _site_panel(ax: Axes, site: str, search: SiteSearch) -> None:
    clean_axes(ax, shortened(site, LONGEST), grid="y")
    curve, tuned = _scored(search.checkpoints), _scored(search.settings)
    steps = [float(candidate.step or 0) for candidate in curve]
    _draw_scores(ax, steps, curve, CYCLE[0], linewidth=1.7, marker="o", markersize=3.5)
    shown = steps if len(steps) <= MOST_TICKS else [steps[0], steps[len(steps) // 2], steps[-1]]
    ticks = {step: f"{step:,.0f}" for step in shown}
    if tuned:
        # Right of the checkpoints, behind a line.
        width = max(steps[-1] - steps[0], 0.5 * steps[-1], 1)
        places = np.linspace(steps[-1] + 0.2 * width, steps[-1] + 0.65 * width, len(tuned)).tolist()
        ax.axvline(steps[-1] + 0.1 * width, color=RULE, linewidth=1)
        _draw_scores(ax, places, tuned, CYCLE[1], linestyle="", marker="s", markersize=4)
        ticks[sum(places) / len(places)] = "sampler"
    ax.set_xticks(list(ticks), list(ticks.values()), fontsize=8, color=QUIET)


def _draw_scores(ax: Axes, places: list[float], candidates: list[Candidate], colour: str, **style: Any) -> None:
    scores = [candidate.score or 0.0 for candidate in candidates]
    ax.plot(places, scores, color=colour, **style)
    for x, y, candidate in zip(places, scores, candidates, strict=True):
        if candidate.chosen:
            ring(ax, x, y, colour)


def site_leakage_chart(results: Results) -> Figure | None:
    """Return a panel a site: what each candidate gives away against its score, and the front of both (Pareto)."""
    searches = {site: found for site, found in site_searches(results).items() if pareto_front(found.checkpoints)}
    if not searches:
        return None
    figure, axes = _panels(len(searches))
    for index, (site, search) in enumerate(searches.items()):
        if len(axes) < len(searches):
            _draw_front(clean_axes(axes[0], grid="both"), search, **series_style(index))
        else:
            _leakage_panel(axes[index], site, search)
    for ax in axes:
        ax.set_xlabel("AUC of train against val")
    for ax in axes[::COLUMNS]:
        ax.set_ylabel(f"{'AUC' if search_metric(results) == 'auc' else search_metric(results)} on val")
    return figure


def _leakage_panel(ax: Axes, site: str, search: SiteSearch) -> None:
    clean_axes(ax, shortened(site, LONGEST), grid="both")
    _draw_front(ax, search, color=RULE, linewidth=1.5)
    for candidates, colour, marker in ((search.checkpoints, CYCLE[0], "o"), (search.settings, CYCLE[1], "s")):
        for found in candidates:
            if found.leakage is not None and found.score is not None:
                if found.chosen:
                    ring(ax, found.leakage, found.score, colour)
                ax.plot(found.leakage, found.score, color=colour, marker=marker, markersize=4, linestyle="")


def _draw_front(ax: Axes, search: SiteSearch, **style: Any) -> None:
    front = pareto_front([*search.checkpoints, *search.settings])
    ax.plot([c.leakage or 0.0 for c in front], [c.score or 0.0 for c in front], drawstyle="steps-post", **style)


def weights_search_chart(results: Results) -> Figure | None:
    """Return the weight-sharing strategies' val accuracy by round, one line for each setting tried."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for point in results.get("weights_search", []):
        if point["val_accuracy"] is not None:
            curves[point["strategy"], setting_text(point)].append((point["round"], point["val_accuracy"]))
    if not curves:
        return None
    several, kept = len({strategy for strategy, _ in curves}) > 1, _kept_rounds(results)
    figure = new_figure(7.0, 3.0)
    ax = clean_axes(figure.add_subplot(), grid="y")
    for index, (setting, curve) in enumerate(curves.items()):
        x, y = np.array(sorted(curve), float).T
        style = series_style(index)
        label = f"{strategy_label(setting[0])}: {setting[1]}" if several else setting[1]
        ax.plot(x, y, label=label, linewidth=1.7, marker="o", markersize=3, **style)
        for at in np.flatnonzero(x == kept.get(setting, NO_ROUND)):
            ring(ax, x[at], y[at], style["color"])
    ax.set(xlabel="round · ring: the model kept", ylabel="accuracy on val")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if len(curves) <= MANY_LINES:
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _kept_rounds(results: Results) -> dict[tuple[str, str], int]:
    """Return by strategy and setting which round's model was kept."""
    tuned = [(strategy["name"], strategy.get("tuning", {})) for strategy in results["strategies"]]
    return {(name, setting_text(tuning)): tuning["round"] for name, tuning in tuned if "round" in tuning}
