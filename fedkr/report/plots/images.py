"""What the sites hold and share: images of each class, counted and shown."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedkr.report.plots.style import CYCLE, HEAT, INK, LONGEST, QUIET, RULE, clean_axes, new_figure
from fedkr.report.results import Results
from fedkr.report.samples import SiteSamples, shown_classes, tile_grid
from fedkr.report.selection import site_totals
from fedkr.report.wording import shortened

GRID_COLUMNS = 8
GRID_ROWS = 20
TILE_PIXELS = 64


def class_histogram(results: Results) -> Figure | None:
    """Return how many images of each class each site holds: small bars for few sites, else a heat map."""
    sites = {site["name"]: totals for site in results.get("sites", []) if (totals := site_totals(site))}
    if not sites:
        return None
    counts = np.array(list(sites.values()))
    classes = results.get("classes") or [str(k) for k in range(counts.shape[1])]
    if len(sites) <= 4 and len(classes) <= 14:
        return _histogram_bars(list(sites), classes, counts)
    return _histogram_heat_map(list(sites), classes, counts)


def _histogram_bars(names: list[str], classes: list[str], counts: NDArray[np.int64]) -> Figure:
    long = max(map(len, classes)) > 4
    figure = new_figure(max(3.0, 2.6 * len(names)), 2.9 if long else 2.3)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for index, (ax, name) in enumerate(zip(axes, names, strict=True)):
        clean_axes(ax, f"{shortened(name, LONGEST)} · {counts[index].sum():,} images", grid="y")
        ax.bar(range(len(classes)), counts[index], color=CYCLE[0], width=0.75)
        _name_classes(ax, range(len(classes)), classes)
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[0].set_ylabel("images")
    return figure


def _histogram_heat_map(names: list[str], classes: list[str], counts: NDArray[np.int64]) -> Figure:
    rows, columns = counts.shape
    figure = new_figure(min(12.0, 2.2 + 0.55 * columns), 1.2 + 0.3 * rows)
    ax = clean_axes(figure.add_subplot())
    image = ax.imshow(counts, cmap=HEAT, aspect="auto", interpolation="nearest", vmin=0)
    totals = zip(names, counts.sum(1), strict=True)
    ax.set_yticks(range(rows), [f"{shortened(name, LONGEST)}  ({total:,})" for name, total in totals])
    _name_classes(ax, range(0, columns, max(1, columns // 25)), classes)
    ax.spines[["left", "bottom"]].set_visible(False)
    if columns <= 20 and rows <= 40:
        for (row, column), value in np.ndenumerate(counts):
            colour = "white" if value > 0.45 * counts.max() else (QUIET if value == 0 else INK)
            ax.text(column, row, f"{value}", ha="center", va="center", fontsize=8, color=colour)
    else:
        figure.colorbar(image, ax=ax, label="images", shrink=0.8).outline.set_visible(False)
    return figure


def _name_classes(ax: Axes, ticks: range, classes: list[str]) -> None:
    labels = [shortened(classes[k]) for k in ticks]
    long = max(map(len, labels)) > 4
    ax.set_xticks(ticks, labels, rotation=55 if long else 0, ha="right" if long else "center")


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
    clean_axes(left, "real (private)")
    clean_axes(right, "synthetic (shared)")
    if samples.real is None:
        _no_real_images(left)
    for name, (images, labels) in samples.halves.items():
        _draw_grid(left if name == "real" else right, tile_grid(images, labels, rows, columns, tile))
    names = [shortened(samples.classes[k], 16) for k in rows]
    label_axis = right if samples.real is None else left
    label_axis.set_yticks([(k + 0.5) * tile for k in range(len(rows))], names)
    hidden = len(samples.classes) - len(rows)
    if hidden > 0:
        figure.supxlabel(f"{hidden} more classes are not shown", fontsize=9, color=QUIET)
    return figure


def _draw_grid(ax: Axes, canvas: NDArray[np.uint8]) -> None:
    ax.imshow(canvas, interpolation="nearest" if canvas.shape[0] < 600 else "auto")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _no_real_images(ax: Axes) -> None:
    ax.set_axis_off()
    box = {"boxstyle": "round,pad=0.8", "facecolor": "#f4f6f8", "edgecolor": RULE}
    text = "Private images\nnever leave the site,\nnot even for this report."
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=10, color=QUIET, bbox=box, transform=ax.transAxes)
