"""Several single-site runs (``fedkr kr``) brought into one file, its tables and its plots.

``python -m simulations.evidence.recycling_summary OUT_FOLDER RUN [RUN ...]``: runs of any datasets and seeds; writes
``kr.json``, ``kr.png`` and ``kr_tables.md`` and prints the tables.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scipy
from matplotlib.axes import Axes

from fedkr.errors import UserError
from fedkr.recycle.ablation import FIXED, FULL, HARD_FIXED, USUAL
from fedkr.report.plots.style import QUIET, clean_axes, new_figure, series_style, to_png
from fedkr.stages import write_atomic
from simulations.exits import guarded
from simulations.study.summary import common_study, spread

FIGURES = ("accuracy", "auc")
RATIO_NAME = "fixed set, ratio "


def summarise(runs: Sequence[Path]) -> dict[str, Any]:
    """Return, for each dataset, the figures of every seed and variant, gaps to real images, and costs.

    Raises:
        UserError: a folder that is no finished run, two runs of one dataset and seed, or runs whose settings differ.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        results = read_results(run)
        found.setdefault(results["study"]["data"]["name"], []).append(results)
    datasets = {name: summarise_dataset(name, results) for name, results in sorted(found.items())}
    return {"datasets": datasets, "mean_gap": mean_gap(datasets)}


def read_results(run: Path) -> dict[str, Any]:
    """Read what ``fedkr kr`` wrote into a run folder."""
    try:
        results = json.loads((run / "results.json").read_text())
        results["reference"], results["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{run}: holds no finished run of `fedkr kr`; run it, or name another folder") from None
    return dict(results)


def summarise_dataset(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one dataset's summary over its seeds."""
    results.sort(key=lambda r: r["seed"])
    try:
        study = common_study(results)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return {
        "seeds": [r["seed"] for r in results],
        "images": results[0]["images"],
        "reference": {f: spread([r["reference"][f] for r in results]) for f in FIGURES},
        "rows": shared_rows(results),
        "ablation": ablation(results),
        "costs": costs(results),
        "checkpoints": [r["checkpoints"] for r in results],
        "tuning": [r["tuning"] for r in results],
        "study": study,
        "hardware": results[0]["hardware"],
        "versions": results[0]["versions"],
    }


def ablation(results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the rows of the runs that have an ablation, None where no run has; long ones are often of fewer seeds.

    A variant is compared with the others of its own seeds only. An ablation that was broken off is not counted: its
    missing rows would be missing everywhere.
    """
    most = max(len(r["rows"]) for r in results)
    ablated = [r for r in results if len(r["rows"]) == most > len(USUAL)]
    if not ablated:
        return None
    reference = {f: spread([r["reference"][f] for r in ablated]) for f in FIGURES}
    return {"seeds": [r["seed"] for r in ablated], "reference": reference, "rows": shared_rows(ablated)}


def shared_rows(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the summaries of the variants that every one of the runs has."""
    names = [row["name"] for row in results[0]["rows"]]
    shared = [n for n in names if all(any(row["name"] == n for row in r["rows"]) for r in results)]
    return {variant: variant_summary([_row(r, variant) for r in results], results) for variant in shared}


def variant_summary(rows: list[dict[str, Any]], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a variant's figures and its gap to real images, seed by seed, in points."""
    gaps = [100 * (row["accuracy"] - r["reference"]["accuracy"]) for row, r in zip(rows, results, strict=True)]
    return {f: spread([row[f] for row in rows]) for f in FIGURES} | {
        "gap": spread(gaps),
        "recalls": [row["recalls"] for row in rows],
        "images": rows[0]["images"],
        "sets": rows[0]["sets"],
    }


def costs(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return seconds of generator and search, and what one set as large as the real one costs to draw."""
    found: dict[str, list[float]] = {"generator_seconds": [], "search_share": [], "regeneration_share": []}
    for r in results:
        full = _row(r, FULL.name)
        found["generator_seconds"].append(r["generator_seconds"])
        found["search_share"].append(r["search_seconds"] / r["generator_seconds"])
        one_set = full["sampling_seconds"] / full["images"] * r["images"]["train"]
        found["regeneration_share"].append(one_set / r["generator_seconds"])
    return {name: spread(values) for name, values in found.items()}


def mean_gap(datasets: dict[str, Any]) -> dict[str, Any]:
    """Return the full method's gap, mean over datasets, with a 95 % interval of the mean over seeds (Student's t).

    Seeds are paired across datasets: each gives one mean. Datasets with other seeds than the rest leave no interval.
    """
    gaps = {name: d["rows"][FULL.name]["gap"]["values"] for name, d in datasets.items()}
    overall = statistics.fmean(statistics.fmean(values) for values in gaps.values())
    pairs = {tuple(d["seeds"]) for d in datasets.values()}
    low = high = None
    if len(pairs) == 1 and (seeds := len(pairs.pop())) > 1:
        means = [statistics.fmean(values[i] for values in gaps.values()) for i in range(seeds)]
        half = float(scipy.stats.t.ppf(0.975, seeds - 1)) * statistics.stdev(means) / math.sqrt(seeds)
        low, high = overall - half, overall + half
    return {"mean": overall, "low": low, "high": high, "datasets": list(gaps)}


def tables(summary: dict[str, Any]) -> str:
    """Return the tables as Markdown: the gap on each dataset and over all, then each dataset's ablation."""
    lines = [
        "| dataset | train | real images, accuracy | student, accuracy | gap, points | gap of hard labels, fixed set "
        "| real AUC | student AUC | search / generator | one set / generator |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, d in summary["datasets"].items():
        full, plain, cost = d["rows"][FULL.name], d["rows"].get(HARD_FIXED.name), d["costs"]
        cells = [
            name,
            str(d["images"]["train"]),
            _cell(d["reference"]["accuracy"], 100),
            _cell(full["accuracy"], 100),
            _cell(full["gap"], 1, signed=True),
            _cell(plain["gap"], 1, signed=True) if plain else "-",
            _cell(d["reference"]["auc"], 1, 3),
            _cell(full["auc"], 1, 3),
            f"{100 * cost['search_share']['mean']:.0f} %",
            f"{100 * cost['regeneration_share']['mean']:.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", mean_gap_line(summary["mean_gap"])]
    for name, d in summary["datasets"].items():
        if d["ablation"]:
            lines += ["", f"### {_ablation_title(name, d)}", ""]
            lines += ["| variant | accuracy | AUC | gap, points |", "|---|---|---|---|"]
            lines += [
                f"| {n} | {_cell(r['accuracy'], 100)} | {_cell(r['auc'], 1, 3)} | {_cell(r['gap'], 1, signed=True)} |"
                for n, r in d["ablation"]["rows"].items()
            ]
    return "\n".join(lines) + "\n"


def mean_gap_line(gap: dict[str, Any]) -> str:
    """Return the sentence of the mean gap; an interval needs the same seeds, two at least, of every dataset."""
    mean = f"Mean gap over {', '.join(gap['datasets'])}: {gap['mean']:+.2f} points"
    if gap["low"] is None:
        return f"{mean} (no interval: it needs two seeds or more, the same of every dataset)."
    return f"{mean} (95 % interval over seeds: {gap['low']:+.2f} to {gap['high']:+.2f})."


def draw(summary: dict[str, Any]) -> bytes:
    """Return one PNG: gaps, ablation, ratio of synthetic to real images, checkpoint scores."""
    figure = new_figure(12, 8.5)
    axes = figure.subplots(2, 2)
    _draw_gaps(axes[0, 0], summary)
    _draw_ablation(axes[0, 1], summary)
    _draw_ratio(axes[1, 0], summary)
    _draw_checkpoints(axes[1, 1], summary)
    return to_png(figure, 110)


def _draw_gaps(ax: Axes, summary: dict[str, Any]) -> None:
    for index, d in enumerate(summary["datasets"].values()):
        gap, colour = d["rows"][FULL.name]["gap"], series_style(index)["color"]
        ax.scatter([index] * len(gap["values"]), gap["values"], color=colour, alpha=0.45, s=28)
        ax.plot([index - 0.2, index + 0.2], [gap["mean"]] * 2, color=colour, linewidth=2.5)
    ax.axhline(0, color=QUIET, linewidth=1)
    ax.axhline(-1.24, color=QUIET, linestyle="--", linewidth=1, label="KR's published mean, nine other sets: -1.24")
    ax.set_xticks(range(len(summary["datasets"])), list(summary["datasets"]))
    ax.set_ylabel("student - real images, points")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.06))
    clean_axes(ax, "CAS gap: a dot a seed, a bar their mean", grid="y")


def _draw_ablation(ax: Axes, summary: dict[str, Any]) -> None:
    chosen = {n: d for n, d in summary["datasets"].items() if d["ablation"]}
    # A dataset keeps the colour that it has in the plots of all datasets.
    colours = {name: series_style(index)["color"] for index, name in enumerate(summary["datasets"])}
    rows = [d["ablation"]["rows"] for d in chosen.values()]
    names = [n for n in rows[0] if not n.startswith(RATIO_NAME)] if rows else []
    for index, (dataset, d) in enumerate(chosen.items()):
        offset, colour = (index - (len(chosen) - 1) / 2) * 0.25, colours[dataset]
        for row, name in enumerate(names):
            if name not in rows[index]:
                continue
            gap = rows[index][name]["gap"]
            ax.errorbar(gap["mean"], row + offset, xerr=gap["sd"] or 0, fmt="o", color=colour, capsize=3, markersize=5)
        ax.plot([], [], "o", color=colour, label=_ablation_title(dataset, d))
    ax.axvline(0, color=QUIET, linewidth=1)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("student - real images, points (mean, sd over seeds)")
    if chosen:
        ax.legend(frameon=False, fontsize=8)
    clean_axes(ax, "Ablation", grid="x")


def _draw_ratio(ax: Axes, summary: dict[str, Any]) -> None:
    for index, (dataset, d) in enumerate(summary["datasets"].items()):
        rows = d["ablation"]["rows"] if d["ablation"] else {}
        known = {float(n.removeprefix(RATIO_NAME)): r for n, r in rows.items() if n.startswith(RATIO_NAME)}
        if FIXED.name in rows and known:
            known[1.0] = rows[FIXED.name]
        points = sorted((ratio, row["accuracy"]) for ratio, row in known.items())
        if points:
            style = series_style(index)
            ax.errorbar(
                [ratio for ratio, _ in points],
                [100 * accuracy["mean"] for _, accuracy in points],
                yerr=[100 * (accuracy["sd"] or 0) for _, accuracy in points],
                label=_ablation_title(dataset, d),
                marker="o",
                capsize=3,
                **style,
            )
            real = d["ablation"]["reference"]["accuracy"]["mean"]
            ax.axhline(100 * real, color=style["color"], linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set_xlabel("synthetic / real images, one fixed set")
    ax.set_ylabel("accuracy, % (dotted: real images)")
    ax.legend(frameon=False, fontsize=8)
    clean_axes(ax, "How many synthetic images", grid="y")


def _draw_checkpoints(ax: Axes, summary: dict[str, Any]) -> None:
    for index, (dataset, d) in enumerate(summary["datasets"].items()):
        colour = series_style(index)["color"]
        for number, rows in enumerate(d["checkpoints"]):
            label = dataset if not number else None
            ax.plot([r["step"] for r in rows], [r["score"] for r in rows], label=label, marker=".", color=colour)
    ax.set_xlabel("generator step")
    ax.set_ylabel("score on val of a short student")
    ax.legend(frameon=False, fontsize=8)
    clean_axes(ax, "Checkpoint optimisation, a line a seed", grid="y")


def _ablation_title(name: str, dataset: dict[str, Any]) -> str:
    seeds = dataset["ablation"]["seeds"]
    return f"{name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _row(results: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in results["rows"] if row["name"] == name)


def _cell(figure: dict[str, Any], scale: float, digits: int = 2, signed: bool = False) -> str:
    if figure["mean"] is None:
        return "-"
    mean = f"{scale * figure['mean']:{'+' if signed else ''}.{digits}f}"
    return mean if figure["sd"] is None else f"{mean} ± {scale * figure['sd']:.{digits}f}"


def main(arguments: Sequence[str]) -> None:
    """Summarise the named runs into the named folder."""
    if len(arguments) < 2:
        raise UserError("usage: python -m simulations.evidence.recycling_summary OUT_FOLDER RUN [RUN ...]")
    folder, summary = Path(arguments[0]), summarise([Path(run) for run in arguments[1:]])
    write_atomic(folder / "kr.json", json.dumps(summary, indent=1).encode() + b"\n")
    write_atomic(folder / "kr.png", draw(summary))
    write_atomic(folder / "kr_tables.md", tables(summary).encode())
    print(tables(summary), end="")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
