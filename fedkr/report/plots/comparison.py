"""How good each strategy is, and what it costs."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedkr.report.plots.style import INK, LONGEST, MANY_LINES, clean_axes, new_figure, strategy_colour, text_on
from fedkr.report.results import Results, StrategyResult
from fedkr.report.wording import duration, percent, shortened, size, strategy_label


def accuracy_chart(results: Results) -> Figure | None:
    """Return one bar per strategy (global test) with a point per site (the site's own test)."""
    rows = [s for s in results["strategies"] if s.get("accuracy") is not None]
    if not rows:
        return None
    figure = new_figure(7.6, 0.9 + 0.62 * len(rows))
    ax = clean_axes(figure.add_subplot(), grid="x")
    for y, row in enumerate(rows):
        accuracy, colour = row["accuracy"] or 0.0, strategy_colour(row["name"])
        ax.barh(y, accuracy, height=0.62, color=colour, alpha=0.9)
        on_bar = text_on(colour) if accuracy > 0.12 else INK
        ax.text(0.012, y, percent(accuracy), color=on_bar, va="center", weight="bold")
        points = [value for p in row.get("per_site", []) if (value := p.get("accuracy")) is not None]
        spread = 0.2 if len(points) > 1 else 0.0
        heights = y + np.linspace(-spread, spread, len(points))
        area = 26 if len(points) <= MANY_LINES else 12
        ax.scatter(points, heights, s=area, color="white", edgecolor=INK, linewidth=0.9, zorder=3, clip_on=False)
    _name_bars(ax, rows)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("accuracy · bar: global test images · circles: each site's own test images")
    return figure


def cost_chart(results: Results) -> Figure | None:
    """Return bytes (from and to the sites) and computing time of every strategy."""
    rows = results["strategies"]
    if not rows:
        return None
    figure = new_figure(8.6, 1.1 + 0.55 * len(rows))
    traffic, time = figure.subplots(1, 2, sharey=True)
    clean_axes(traffic, "bytes on the wire", grid="x")
    clean_axes(time, "computing time", grid="x")
    for y, row in enumerate(rows):
        colour = strategy_colour(row["name"])
        up, down, seconds = row.get("bytes_up") or 0.0, row.get("bytes_down") or 0.0, row.get("seconds") or 0.0
        traffic.barh(y, up / 1e6, height=0.56, color=colour)
        traffic.barh(y, down / 1e6, left=up / 1e6, height=0.56, color=colour, alpha=0.4)
        traffic.text((up + down) / 1e6, y, f"  {size(up)} up, {size(down)} down", va="center", fontsize=8.5, color=INK)
        time.barh(y, seconds, height=0.56, color=colour)
        time.text(seconds, y, f"  {duration(row.get('seconds'))}", va="center", fontsize=8.5, color=INK)
    _name_bars(traffic, rows)
    traffic.set_xlabel("MB · full: from the sites · pale: to the sites")
    time.set_xlabel("seconds")
    for ax, room in ((traffic, 1.75), (time, 1.35)):
        ax.set_xlim(0, (ax.dataLim.x1 or 1.0) * room)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def _name_bars(ax: Axes, rows: list[StrategyResult]) -> None:
    ax.set_yticks(range(len(rows)), [shortened(strategy_label(row["name"]), LONGEST) for row in rows])
    ax.invert_yaxis()
