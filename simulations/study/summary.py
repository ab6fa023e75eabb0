"""Several runs of one study under other seeds, brought into one small table: mean, deviation, interval, each seed."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import scipy

from fedkr.config import flat
from fedkr.config.reading import brief
from fedkr.data.identity import what_changed
from fedkr.errors import UserError
from fedkr.report.results import load_results
from fedkr.report.selection import data_warnings, headline_rows
from fedkr.report.wording import NONE
from simulations.study.command import portable

# What made a run's figures; where it differs, a list by seed stands in the summary, and a warning beside it.
MADE_BY = ("backend", "hardware", "versions")
# Of the options that two studies differ in, so many are named.
MOST = 5
# What the differences are those of.
OURS = "fedkr"
# What of a figure over all seeds is in the CSV.
SPREAD = ("mean", "sd", "low", "high")
SCORES = ("accuracy", "balanced_accuracy", "auc")
FIGURES = (*SCORES, "bytes_up", "bytes_down", "seconds")


def summarise(runs: Iterable[Path]) -> dict[str, Any]:
    """Return mean and standard deviation (over seeds, n - 1) of every strategy's figures and of the headline audit.

    Scores have intervals, and so have those of FedKR less every other strategy's.

    Raises:
        UserError: no run, an unfinished one, two of one seed, or runs that differ in more than their seed.
    """
    results = [load_results(run) for run in runs]
    if not results:
        raise UserError("no runs given: name the folders of finished runs that differ in their seed")
    study = common_study([dict(r) for r in results])
    names = [row["name"] for row in results[0]["strategies"]]
    strategies = {name: _strategy(name, results) for name in names}
    return {
        "dataset": study["data"]["name"],
        "seeds": [r["seed"] for r in results],
        "strategies": strategies,
        "differences": _differences(strategies),
        "audit": _audit(results),
        "data_warnings": [data_warnings(r) for r in results],
        "missing_sites": [r.get("missing_sites", []) for r in results],
        "wall_seconds": [r.get("seconds") for r in results],
        **{what: _common([r.get(what) for r in results]) for what in MADE_BY},
        "study": study,
    }


def common_study(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the studies of several runs share: all but the seed, and where they ran.

    Raises:
        UserError: two runs of one seed, which would count twice, or runs that differ in more than their seed.
    """
    seeds = [r["seed"] for r in results]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"two runs of one seed in {seeds}; name each run once")
    studies = [{name: value for name, value in portable(r["study"]).items() if name != "seed"} for r in results]
    for seed, study in zip(seeds, studies, strict=True):
        if changed := what_changed(studies[0].get("data_digest", ""), study.get("data_digest", "")):
            raise UserError(f"seed {seed} ran on other data than seed {seeds[0]}: {', '.join(changed)} differ")
    for seed, study in zip(seeds, studies, strict=True):
        if study != studies[0]:
            differing = _differing(studies[0], study)
            raise UserError(f"these runs differ in more than their seed: {differing} (seeds {seeds[0]} and {seed})")
    return studies[0]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Return the options that two studies differ in, with both values of each."""
    one, other = dict(flat(first)), dict(flat(second))
    names = [name for name in {**one, **other} if one.get(name, NONE) != other.get(name, NONE)]
    return ", ".join(f"{name}={brief(one.get(name, NONE))} and {brief(other.get(name, NONE))}" for name in names[:MOST])


def _common(values: Sequence[Any]) -> Any:
    """Return what all seeds have, else a list by seed."""
    return values[0] if all(value == values[0] for value in values) else list(values)


def _strategy(name: str, results: list[Any]) -> dict[str, Any]:
    """Return a strategy's figures over seeds, and under ``sites`` of how many sites those of each seed are."""
    none: dict[str, Any] = {}
    rows = [next((row for row in r["strategies"] if row["name"] == name), none) for r in results]
    figures = {figure: spread([row.get(figure) for row in rows]) for figure in FIGURES}
    figures |= {score: with_limits(figures[score], 0, 1) for score in SCORES}
    return figures | {"sites": spread([_sites(r, row) if row else 0 for r, row in zip(results, rows, strict=True)])}


def _differences(strategies: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return FedKR's scores less every other strategy's, of each seed, so that what a seed does to all cancels out."""
    if OURS not in strategies:
        return {}
    return {
        name: {
            score: with_limits(spread(_less(strategies[OURS][score]["values"], figures[score]["values"])), -1, 1)
            for score in SCORES
        }
        for name, figures in strategies.items()
        if name != OURS
    }


def _less(ours: Sequence[float | None], others: Sequence[float | None]) -> list[float | None]:
    return [None if one is None or other is None else one - other for one, other in zip(ours, others, strict=True)]


def _sites(result: Mapping[str, Any], row: Mapping[str, Any]) -> int:
    """Return how many sites took part in a row: those with figures of their own, else all that were not lost."""
    lost = {line.partition(":")[0] for line in result.get("missing_sites", [])}
    return len(row.get("per_site") or ()) or result["study"]["federation"]["sites"] - len(lost)


def _audit(results: list[Any]) -> dict[str, Any]:
    """The headline attack's AUC for each target over seeds, of each the mean over its sites; the worst site; all."""
    found: dict[str, list[dict[str, float]]] = {}
    for place, r in enumerate(results):
        for row in headline_rows(r):
            if (auc := row.get("auc")) is not None:
                found.setdefault(row["target"], [{} for _ in results])[place][row["site"]] = auc
    return {
        name: {
            **spread([statistics.fmean(aucs.values()) if aucs else None for aucs in seeds]),
            "worst": max(auc for aucs in seeds for auc in aucs.values()),
            "sites": [len(aucs) for aucs in seeds],
            "by_site": seeds,
        }
        for name, seeds in found.items()
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, standard deviation (None for one value) and the values; None where a value is missing."""
    known = [v for v in values if v is not None]
    complete = 0 < len(known) == len(values)
    mean = statistics.fmean(known) if complete else None
    return {"mean": mean, "sd": statistics.stdev(known) if complete and len(known) > 1 else None, "values": values}


def with_limits(found: Mapping[str, Any], least: float, most: float) -> dict[str, Any]:
    """Return a spread with the 95 % t interval of its mean, within what the figure can be.

    None for one value, and where all are equal: so few do not say that others would be.
    """
    mean = found["mean"]
    if not found["sd"]:
        return {**found, "low": None, "high": None}
    half = half_width(found["values"])
    return {**found, "low": max(least, mean - half), "high": min(most, mean + half)}


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % t interval of the mean of two values or more."""
    count = len(values)
    return float(scipy.stats.t.ppf(0.975, count - 1)) * statistics.stdev(values) / count**0.5


def lost_sites(summary: dict[str, Any]) -> list[str]:
    """Return a line for each seed that some site was lost to: its figures are of fewer sites."""
    lost = zip(summary["seeds"], summary["missing_sites"], strict=True)
    return [f"seed {seed} is without {'; '.join(sites)}" for seed, sites in lost if sites]


def mixed(summary: dict[str, Any]) -> list[str]:
    """Return a line for each thing that made some seeds' figures and not the others'."""
    return [
        f"these seeds differ in {what}, which moves figures: {brief(' | '.join(map(str, summary[what])))}"
        for what in MADE_BY
        if isinstance(summary[what], list)
    ]


def warned(summary: dict[str, Any]) -> list[str]:
    """Return what has to be known of the data behind the figures, each line once, with the seeds that it is of."""
    found: dict[str, list[str]] = {}
    for seed, lines in zip(summary["seeds"], summary["data_warnings"], strict=True):
        for line in lines:
            found.setdefault(line, []).append(str(seed))
    return [f"seed {', '.join(seeds)}: {line}" for line, seeds in found.items()]


def as_csv(summary: dict[str, Any]) -> str:
    """Return strategies, and FedKR less each other one, as CSV: a line a figure, ``low`` and ``high`` over seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["strategy", "figure", *SPREAD, *[f"seed{s}" for s in summary["seeds"]]])
    less = {f"{OURS} less {name}": figures for name, figures in summary["differences"].items()}
    for name, figures in (summary["strategies"] | less).items():
        for figure, value in figures.items():
            writer.writerow([name, figure, *(value.get(part) for part in SPREAD), *value["values"]])
    return out.getvalue()
