"""Single-site runs of several datasets and seeds as one picture: each dataset has one colour in all its panels."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from fedkr.recycle.ablation import FIXED, FULL
from fedkr.report.plots.style import QUIET, clean_axes, new_figure, series_style, to_png

Datasets = dict[str, dict[str, Any]]
RATIO_NAME = "fixed set, ratio "
PUBLISHED_GAP = -1.24


def draw(summary: dict[str, Any]) -> bytes:
    """Return one PNG: gaps, ablation, ratio of synthetic to real images, checkpoint scores."""
    figure = new_figure(12, 8.5)
    panels = (_draw_gaps, _draw_ablation, _draw_ratio, _draw_checkpoints)
    for ax, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        panel(ax, summary["datasets"])
    return to_png(figure, 110)


def _draw_gaps(ax: Axes, datasets: Datasets) -> None:
    for index, data in enumerate(datasets.values()):
        gap, colour = data["rows"][FULL.name]["gap"], _colour(index)
        ax.scatter([index] * len(gap["values"]), gap["values"], color=colour, alpha=0.45, s=28)
        ax.plot([index - 0.2, index + 0.2], [gap["mean"]] * 2, color=colour, linewidth=2.5)
    ax.axhline(0, color=QUIET, linewidth=1)
    label = f"KR's published mean, nine other sets: {PUBLISHED_GAP}"
    ax.axhline(PUBLISHED_GAP, color=QUIET, linestyle="--", linewidth=1, label=label)
    ax.set_xticks(range(len(datasets)), list(datasets))
    ax.set_ylabel("student - real images, points")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.06))
    clean_axes(ax, "CAS gap: a dot a seed, a bar their mean", grid="y")


def _draw_ablation(ax: Axes, datasets: Datasets) -> None:
    ablated = [(index, name, data) for index, (name, data) in enumerate(datasets.items()) if data["ablation"]]
    variants = (
        [name for name in ablated[0][2]["ablation"]["rows"] if not name.startswith(RATIO_NAME)] if ablated else []
    )
    for place, (index, name, data) in enumerate(ablated):
        offset, rows = (place - (len(ablated) - 1) / 2) * 0.25, data["ablation"]["rows"]
        style: dict[str, Any] = {"fmt": "o", "color": _colour(index), "capsize": 3, "markersize": 5}
        for row, variant in enumerate(variants):
            if variant in rows:
                gap = rows[variant]["gap"]
                ax.errorbar(gap["mean"], row + offset, xerr=gap["sd"] or 0, **style)
        ax.plot([], [], "o", color=_colour(index), label=ablation_title(name, data))
    ax.axvline(0, color=QUIET, linewidth=1)
    ax.set_yticks(range(len(variants)), variants)
    ax.invert_yaxis()
    ax.set_xlabel("student - real images, points (mean, sd over seeds)")
    if ablated:
        ax.legend(frameon=False, fontsize=8)
    clean_axes(ax, "Ablation", grid="x")


def _draw_ratio(ax: Axes, datasets: Datasets) -> None:
    for index, (name, data) in enumerate(datasets.items()):
        rows = data["ablation"]["rows"] if data["ablation"] else {}
        known = {float(n.removeprefix(RATIO_NAME)): row for n, row in rows.items() if n.startswith(RATIO_NAME)}
        if not known:
            continue
        if FIXED.name in rows:
            known[1.0] = rows[FIXED.name]
        ratios, style = sorted(known), series_style(index)
        found = [known[ratio]["accuracy"] for ratio in ratios]
        means, deviations = [100 * a["mean"] for a in found], [100 * (a["sd"] or 0) for a in found]
        label = ablation_title(name, data)
        ax.errorbar(ratios, means, yerr=deviations, label=label, marker="o", capsize=3, **style)
        real = data["ablation"]["reference"]["accuracy"]["mean"]
        ax.axhline(100 * real, color=style["color"], linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set(xlabel="synthetic / real images, one fixed set", ylabel="accuracy, % (dotted: real images)")
    ax.legend(frameon=False, fontsize=8)
    clean_axes(ax, "How many synthetic images", grid="y")


def _draw_checkpoints(ax: Axes, datasets: Datasets) -> None:
    for index, (name, data) in enumerate(datasets.items()):
        for number, rows in enumerate(data["checkpoints"]):
            steps, scores = [r["step"] for r in rows], [r["score"] for r in rows]
            ax.plot(steps, scores, label=None if number else name, marker=".", color=_colour(index))
    ax.set(xlabel="generator step", ylabel="score on val of a short student")
    ax.legend(frameon=False, fontsize=8)
    clean_axes(ax, "Checkpoint optimisation, a line a seed", grid="y")


def ablation_title(name: str, dataset: dict[str, Any]) -> str:
    """Return a dataset's name with the seeds of its ablation."""
    seeds = dataset["ablation"]["seeds"]
    return f"{name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _colour(index: int) -> str:
    return str(series_style(index)["color"])
