"""The plane of privacy and accuracy: what each variant costs, and what it brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedkr.report.plots.style import INK, QUIET, clean_axes, new_figure, series_style, to_png

# Title, accuracy and AUC of a panel: what a server sees of one site, and what anybody sees of the student.
PANELS = (
    ("Server: one site's release", "student_accuracy", "release_auc"),
    ("Server: student of one site", "student_accuracy", "student_auc"),
    ("Outsider: student of 3 sites", "union_accuracy", "union_auc"),
)


def draw(results: Mapping[str, Any]) -> bytes:
    """Return one PNG: accuracy across, AUC up (lower is more private), 95 % intervals."""
    return to_png(plane(results), 120)


def plane(results: Mapping[str, Any]) -> Figure:
    """Return the figure that :func:`draw` makes a PNG of."""
    figure = new_figure(15, 6)
    axes = figure.subplots(1, len(PANELS))
    for ax, (title, accuracy, auc) in zip(axes, PANELS, strict=True):
        _panel(clean_axes(ax, title, grid="both"), results["variants"], accuracy, auc)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.suptitle(f"{results['dataset']}, test images; {results['pipelines']} pipelines", fontsize=9, color=QUIET)
    return figure


def _panel(ax: Axes, rows: list[Mapping[str, Any]], accuracy: str, auc: str) -> None:
    markers = "osD^v<>P"
    for index, row in enumerate(rows):
        across, up = row["figures"][accuracy], row["figures"][auc]
        ax.errorbar(
            [100 * across["value"]],
            [up["value"]],
            xerr=[[100 * (across["value"] - across["low"])], [100 * (across["high"] - across["value"])]],
            yerr=[[up["value"] - up["low"]], [up["high"] - up["value"]]],
            label=row["name"],
            marker=markers[index // 7 % len(markers)],
            color=series_style(index)["color"],
            markersize=6,
            elinewidth=0.6,
            alpha=0.9,
        )
    ax.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    ax.set_xlabel("accuracy on test images, %")
    ax.set_ylabel("AUC of the attack")
