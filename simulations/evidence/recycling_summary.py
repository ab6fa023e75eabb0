"""Several single-site runs (``fedkr kr``) brought into one file, its tables and its picture.

``python -m simulations.evidence.recycling_summary OUT_FOLDER RUN [RUN ...]``: runs of any datasets and seeds; writes
``kr.json``, ``kr.png`` and ``kr_tables.md`` and prints the tables.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import scipy
from jinja2 import Environment, PackageLoader

from fedkr.disk import write_atomic, write_json
from fedkr.errors import UserError
from fedkr.recycle.ablation import FULL, HARD_FIXED, USUAL
from simulations.evidence.recycling_plot import ablation_title, draw
from simulations.exits import guarded
from simulations.study.summary import common_study, spread

FIGURES = ("accuracy", "auc")


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
        **compared(results),
        "images": results[0]["images"],
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
    return compared(ablated) if ablated else None


def compared(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the seeds, the figures of real images, and those of the variants that every one of the runs has."""
    names = [row["name"] for row in results[0]["rows"]]
    shared = [n for n in names if all(any(row["name"] == n for row in r["rows"]) for r in results)]
    return {
        "seeds": [r["seed"] for r in results],
        "reference": {f: spread([r["reference"][f] for r in results]) for f in FIGURES},
        "rows": {variant: variant_summary([_row(r, variant) for r in results], results) for variant in shared},
    }


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
    environment = Environment(
        loader=PackageLoader("simulations.evidence", ""), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "share": partial(_cell, scale=100),
        "auc": partial(_cell, digits=3),
        "gap": partial(_cell, sign="+"),
        "sentence": mean_gap_line,
        "titled": ablation_title,
    }
    names = {"FULL": FULL.name, "HARD_FIXED": HARD_FIXED.name}
    return environment.get_template("recycling_tables.md").render(summary, **names)


def mean_gap_line(gap: dict[str, Any]) -> str:
    """Return the sentence of the mean gap; an interval needs the same seeds, two at least, of every dataset."""
    mean = f"Mean gap over {', '.join(gap['datasets'])}: {gap['mean']:+.2f} points"
    if gap["low"] is None:
        return f"{mean} (no interval: it needs two seeds or more, the same of every dataset)."
    return f"{mean} (95 % interval over seeds: {gap['low']:+.2f} to {gap['high']:+.2f})."


def _row(results: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in results["rows"] if row["name"] == name)


def _cell(figure: dict[str, Any], scale: float = 1, digits: int = 2, sign: str = "") -> str:
    if figure["mean"] is None:
        return "-"
    mean = f"{scale * figure['mean']:{sign}.{digits}f}"
    return mean if figure["sd"] is None else f"{mean} ± {scale * figure['sd']:.{digits}f}"


def main(arguments: Sequence[str]) -> None:
    """Summarise the named runs into the named folder."""
    if len(arguments) < 2:
        raise UserError("usage: python -m simulations.evidence.recycling_summary OUT_FOLDER RUN [RUN ...]")
    folder, summary = Path(arguments[0]), summarise([Path(run) for run in arguments[1:]])
    write_json(folder / "kr.json", summary)
    write_atomic(folder / "kr.png", draw(summary))
    write_atomic(folder / "kr_tables.md", tables(summary).encode())
    print(tables(summary), end="")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
