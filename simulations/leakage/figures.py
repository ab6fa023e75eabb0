"""The leakage curve as a table and as a plot: accuracy above, the headline attack's AUC below."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from fedkr.audit.leakage_curve import LABELS, RATIO, REGENERATION
from fedkr.report.plots.style import INK, QUIET, RULE, clean_axes, new_figure, series_style, to_png

COLUMNS = (
    *("sweep", "value", "labels", "images_a_set", "accuracy", "accuracy_low", "accuracy_high"),
    *("auc", "auc_low", "auc_high", "mean_auc", "worst_site", "worst_auc", "worst_auc_low", "worst_auc_high"),
    *("tpr_at_fpr_0.01", "tpr_at_fpr_0.01_low", "tpr_at_fpr_0.01_high"),
    *("guessing_tpr_at_fpr_0.01", "loss_auc"),
)
PANELS = {"accuracy": "student's accuracy", "auc": "RMIA: AUC over all sites"}
AXES = {
    RATIO: "synthetic images a real one (one fixed set)",
    REGENERATION: "regeneration rounds (fresh sets of ratio 1)",
}
# Points of two curves at one place would hide one another's intervals.
SHIFT = 1.04
# Letters of a small line across the figure.
WRAPPED = 150
Row = Mapping[str, Any]


def as_csv(results: Mapping[str, Any]) -> str:
    """Return one line a point, and one for the student of the real images."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results["rows"])
    writer.writerow({"sweep": "real images", **results["real"]})
    return out.getvalue()


def as_png(results: Mapping[str, Any]) -> bytes:
    """Return the plot: 95 % intervals, the worst site dotted, the student of real images as a grey band."""
    figure = new_figure(9.0, 6.2)
    axes = figure.subplots(len(PANELS), len(AXES), sharex="col", sharey="row")
    for line, (figure_name, title) in zip(axes, PANELS.items(), strict=True):
        for ax, (sweep, label) in zip(line, AXES.items(), strict=True):
            rows = [row for row in results["rows"] if row["sweep"] == sweep]
            _panel(clean_axes(ax, title if sweep == RATIO else "", grid="y"), rows, results["real"], figure_name)
            if figure_name == "auc":
                ax.set_xlabel(label, fontsize=9)
    if told := results.get("data", {}).get("warnings"):
        figure.suptitle(textwrap.fill("Of the data: " + "; ".join(told), WRAPPED), fontsize=8, color=QUIET)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return to_png(figure)


def _panel(ax: Axes, rows: Sequence[Row], real: Row, name: str) -> None:
    ax.set_xscale("log")
    ax.axhspan(real[f"{name}_low"], real[f"{name}_high"], color=RULE, alpha=0.5, linewidth=0)
    ax.axhline(real[name], color=QUIET, linewidth=1)
    if name == "auc":
        ax.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for index, labels in enumerate(LABELS):
        own = [row for row in rows if row["labels"] == labels]
        x = [row["value"] * SHIFT ** (2 * index - 1) for row in own]
        y = [row[name] for row in own]
        errors = [[row[name] - row[f"{name}_low"] for row in own], [row[f"{name}_high"] - row[name] for row in own]]
        ax.errorbar(x, y, yerr=errors, marker="o", markersize=4, capsize=2, linewidth=1.5, color=_colour(index))
        if name == "auc":
            ax.plot(x, [row["worst_auc"] for row in own], linestyle=":", linewidth=1.2, color=_colour(index))
    values = sorted({row["value"] for row in rows})
    ax.set_xticks(values)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def _legend() -> list[Line2D]:
    lines = [Line2D([], [], color=_colour(i), marker="o", label=f"{kind} labels") for i, kind in enumerate(LABELS)]
    return [
        *lines,
        Line2D([], [], color=INK, linestyle=":", label="worst site"),
        Line2D([], [], color=QUIET, label="trained on real images"),
        Line2D([], [], color=INK, linewidth=0.8, linestyle=(0, (1, 2)), label="guessing"),
    ]


def _colour(index: int) -> str:
    return str(series_style(index)["color"])
