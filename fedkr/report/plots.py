"""The report's figures: each takes the results and returns a matplotlib figure, or None with nothing to draw."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fedkr.report.audit_plots import forest_chart, plane_chart, roc_chart
from fedkr.report.results import Results, site_totals
from fedkr.report.samples import SiteSamples, shown_classes, tile_grid
from fedkr.report.search_section import site_search_chart
from fedkr.report.style import (
    CYCLE,
    HEAT,
    INK,
    MANY_LINES,
    QUIET,
    RULE,
    clean_axes,
    new_figure,
    series_style,
    strategy_colour,
    text_on,
)
from fedkr.report.wording import duration, label_text, percent, size, strategy_label

GRID_COLUMNS = 8
GRID_ROWS = 20
TILE_PIXELS = 64


def draw_figures(results: Results, samples: dict[str, SiteSamples]) -> dict[str, Figure]:
    """Return every figure that there is something to draw for, by name; ``samples-<site>`` for the sites' images."""
    figures = {
        "accuracy": accuracy_chart(results),
        "classes": class_histogram(results),
        "forest": forest_chart(results),
        "plane": plane_chart(results),
        "roc": roc_chart(results),
        "cost": cost_chart(results),
        "site_search": site_search_chart(results),
        "weights_search": search_chart(results),
    }
    figures |= {f"samples-{site}": sample_grid(few) for site, few in samples.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def accuracy_chart(results: Results) -> Figure | None:
    """Return one bar per strategy (global test) with a point per site (the site's own test)."""
    rows = [s for s in results["strategies"] if s.get("accuracy") is not None]
    if not rows:
        return None
    figure = new_figure(7.6, 0.9 + 0.62 * len(rows))
    ax = clean_axes(figure.add_subplot(), grid="x")
    for y, row in enumerate(rows):
        accuracy = row["accuracy"] or 0.0
        ax.barh(y, accuracy, height=0.62, color=strategy_colour(row["name"]), alpha=0.9)
        colour = text_on(strategy_colour(row["name"])) if accuracy > 0.12 else INK
        ax.text(0.012, y, percent(accuracy), color=colour, va="center", weight="bold")
        points = [value for p in row.get("per_site", []) if (value := p.get("accuracy")) is not None]
        offsets = np.linspace(-0.2, 0.2, len(points)) if len(points) > 1 else [0.0]
        heights = [y + offset for offset in offsets][: len(points)]
        area = 26 if len(points) <= MANY_LINES else 12
        ax.scatter(points, heights, s=area, color="white", edgecolor=INK, linewidth=0.9, zorder=3, clip_on=False)
    ax.set_yticks(range(len(rows)), [strategy_label(row["name"]) for row in rows])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("accuracy · bar: global test images · circles: each site's own test images", fontsize=9)
    return figure


def class_histogram(results: Results) -> Figure | None:
    """Return how many images of each class each site holds: small bars for few sites, else a heat map."""
    sites = [(site["name"], site_totals(site)) for site in results.get("sites", [])]
    sites = [(name, counts) for name, counts in sites if counts]
    if not sites:
        return None
    counts = np.array([c for _, c in sites])
    classes = results.get("classes") or [str(k) for k in range(counts.shape[1])]
    names = [name for name, _ in sites]
    if len(names) <= 4 and len(classes) <= 14:
        return _histogram_bars(names, classes, counts)
    return _histogram_heat_map(names, classes, counts)


def _histogram_bars(names: list[str], classes: list[str], counts: NDArray[np.int64]) -> Figure:
    long = max(map(len, classes)) > 4
    figure = new_figure(max(3.0, 2.6 * len(names)), 2.9 if long else 2.3)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for index, (ax, name) in enumerate(zip(axes, names, strict=True)):
        clean_axes(ax, f"{name} · {counts[index].sum():,} images", grid="y")
        ax.bar(range(len(classes)), counts[index], color=CYCLE[0], width=0.75)
        labels = [label_text(c) for c in classes]
        ax.set_xticks(range(len(classes)), labels, rotation=55 if long else 0, ha="right" if long else "center")
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[0].set_ylabel("images", fontsize=9)
    return figure


def _histogram_heat_map(names: list[str], classes: list[str], counts: NDArray[np.int64]) -> Figure:
    rows, columns = counts.shape
    figure = new_figure(min(12.0, 2.2 + 0.55 * columns), 1.2 + 0.3 * rows)
    ax = clean_axes(figure.add_subplot())
    image = ax.imshow(counts, cmap=HEAT, aspect="auto", interpolation="nearest", vmin=0)
    ax.set_yticks(range(rows), [f"{name}  ({total:,})" for name, total in zip(names, counts.sum(1), strict=True)])
    step = max(1, columns // 25)
    ticks = range(0, columns, step)
    labels = [label_text(classes[k]) for k in ticks]
    long = max(map(len, labels)) > 4
    ax.set_xticks(ticks, labels, rotation=55 if long else 0, ha="right" if long else "center")
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    if columns <= 20 and rows <= 40:
        for (row, column), value in np.ndenumerate(counts):
            colour = "white" if value > 0.45 * counts.max() else (QUIET if value == 0 else INK)
            ax.text(column, row, f"{value}", ha="center", va="center", fontsize=8, color=colour)
    else:
        figure.colorbar(image, ax=ax, label="images", shrink=0.8).outline.set_visible(False)
    return figure


def sample_grid(samples: SiteSamples, columns: int = GRID_COLUMNS) -> Figure | None:
    """Return the site's images by class, real on the left and synthetic on the right.

    At most 20 classes are drawn. Without real images the left half says why.
    """
    rows = shown_classes(samples, GRID_ROWS)
    if not rows:
        return None
    side = samples.synthetic.shape[1] if samples.synthetic.ndim == 4 and len(samples.synthetic) else TILE_PIXELS
    tile = int(np.clip(side, 24, TILE_PIXELS))
    figure = new_figure(1.2 + 0.42 * 2 * columns, 0.7 + 0.42 * len(rows))
    left, right = figure.subplots(1, 2)
    if samples.real is None or samples.real_labels is None:
        _no_real_images(left)
        left.set_title("real (private)", loc="left", fontsize=10.5, fontweight="bold", color=INK)
    else:
        _draw_grid(left, tile_grid(samples.real, samples.real_labels, rows, columns, tile), "real (private)")
    _draw_grid(right, tile_grid(samples.synthetic, samples.synthetic_labels, rows, columns, tile), "synthetic (shared)")
    names = [label_text(samples.classes[k], 16) for k in rows]
    label_axis = right if samples.real is None else left
    label_axis.set_yticks([(k + 0.5) * tile for k in range(len(rows))], names)
    hidden = len(samples.classes) - len(rows)
    if hidden > 0:
        figure.supxlabel(f"{hidden} more classes are not shown", fontsize=9, color=QUIET)
    return figure


def _draw_grid(ax: Axes, canvas: NDArray[np.uint8], title: str) -> None:
    clean_axes(ax, title)
    ax.imshow(canvas, interpolation="nearest" if canvas.shape[0] < 600 else "auto")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _no_real_images(ax: Axes) -> None:
    ax.set_axis_off()
    box = {"boxstyle": "round,pad=0.8", "facecolor": "#f4f6f8", "edgecolor": RULE}
    text = "Private images\nnever leave the site,\nnot even for this report."
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=10, color=QUIET, bbox=box, transform=ax.transAxes)


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
    traffic.set_yticks(range(len(rows)), [strategy_label(row["name"]) for row in rows])
    traffic.invert_yaxis()
    traffic.set_xlabel("MB · full: from the sites · pale: to the sites", fontsize=9)
    time.set_xlabel("seconds", fontsize=9)
    for ax, room in ((traffic, 1.75), (time, 1.35)):
        ax.set_xlim(0, (ax.dataLim.x1 or 1.0) * room)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def search_chart(results: Results) -> Figure | None:
    """Return the weight-sharing baseline's val accuracy by round, one line for each setting tried."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for point in results.get("weights_search", []):
        if point["val_accuracy"] is not None:
            epochs = point["local_epochs"]
            name = f"lr {point['lr']:g}, {epochs} local epoch{'s' if epochs != 1 else ''}"
            curves[name].append((point["round"], point["val_accuracy"]))
    if not curves:
        return None
    figure = new_figure(7.0, 3.0)
    ax = clean_axes(figure.add_subplot(), grid="y")
    for index, (name, curve) in enumerate(curves.items()):
        x, y = np.array(sorted(curve), float).T
        style = series_style(index)
        ax.plot(x, y, label=name, linewidth=1.7, marker="o", markersize=3, **style)
        best = int(np.argmax(y))
        ax.scatter(x[best], y[best], s=60, facecolor="white", edgecolor=style["color"], linewidth=1.8, zorder=3)
    ax.set_xlabel("round · ring: the best", fontsize=9)
    ax.set_ylabel("accuracy on val", fontsize=9)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if len(curves) <= MANY_LINES:
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
