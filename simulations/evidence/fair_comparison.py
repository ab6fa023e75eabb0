"""Is the comparison fair? What each contestant chose, took and reached, at equal steps and at equal site-seconds.

``python -m simulations.evidence.fair_comparison OUT.json [--seconds] RUN ...``: the runs are of one study and differ in
their seed. Protocol A, equal optimisation steps, is what ``fedkr simulate`` does. With ``--seconds`` protocol B is run
beside it: the opponents are trained again, in a folder of their own beside the run, for as many steps as fit into the
seconds that ``fedkr``'s sites needed, at the speed that they had in the run. So the steps are the same each time, and
the seconds, which no two runs share, are only as equal as that speed holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkr.config import search_looks
from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.report.results import load_results
from fedkr.report.selection import search_looks as scored_at_sites
from simulations.run_folder import RunFolder
from simulations.study.run import run_study
from simulations.study.summary import common_study, half_width, spread

Row = dict[str, Any]
OURS = "fedkr"
FIGURES = ("accuracy", "balanced_accuracy", "auc")
KEPT = (*FIGURES, "bytes_up", "bytes_down", "seconds", "tuning")
# Sites may be asked more often than the default allows: seconds are what ends protocol B.
MOST_ROUNDS = 10_000


def site_seconds(row: Mapping[str, Any]) -> float:
    """Return the seconds that a contestant took of a site, the mean over the sites; 0 where they are unknown."""
    known = [site["seconds"] for site in row["per_site"] if site.get("seconds")]
    return statistics.fmean(known) if known else 0.0


def steps_in_seconds(row: Mapping[str, Any], seconds: float) -> int:
    """Return how many steps a contestant would take in so many site-seconds, at the speed of its own run.

    An oracle works at no site: its own seconds are compared with all that a site spent.
    """
    taken = [tuning["steps"] for tuning in tunings_of(row)]
    own = site_seconds(row) or float(row["seconds"])
    return max(1, round(statistics.fmean(taken) * seconds / own))


def tunings_of(row: Mapping[str, Any]) -> list[Row]:
    """Return how a contestant was tuned: once for a shared model, else by site, as far as the sites tell."""
    return [each["tuning"] for each in (row, *row["per_site"]) if "tuning" in each]


def protocol_b(run: RunFolder, rows: Mapping[str, Row]) -> dict[str, Row]:
    """Train each opponent of a run again for as long as ``fedkr``'s sites needed; return its row by name."""
    if OURS not in rows:
        raise UserError(f"{run.files.folder}: without {OURS} there are no seconds to compare with")
    found, seconds = {}, site_seconds(rows[OURS])
    for name in opponents(rows):
        steps = steps_in_seconds(rows[name], seconds)
        strategy = dataclasses.replace(
            run.study.strategy,
            compare=[name],
            steps=steps,
            rounds=MOST_ROUNDS,
            options={key: value for key, value in run.study.strategy.options.items() if key == name},
        )
        folder = run.files.folder.with_name(f"{run.files.folder.name}-seconds-{name}")
        audit = dataclasses.replace(run.study.audit, enabled=False)
        again = run_study(dataclasses.replace(run.study, strategy=strategy, audit=audit, run_dir=str(folder)))
        (row,) = load_results(again)["strategies"]
        found[name] = kept(row) | {"site_seconds": site_seconds(row), "steps": steps}
    return found


def opponents(rows: Mapping[str, Row]) -> list[str]:
    """Return the contestants that are tuned under the protocol: by what they tell of it."""
    return [name for name, row in rows.items() if tunings_of(row)]


def kept(row: Mapping[str, Any]) -> Row:
    """Return what of a contestant's row is published, the sites' tuning among it."""
    sites = [site["tuning"] for site in row["per_site"] if "tuning" in site]
    found = {name: row[name] for name in KEPT if name in row} | {"site_seconds": site_seconds(row)}
    return found | ({"tuned_sites": sites} if sites else {})


def paired(differences: Sequence[float]) -> Row:
    """Return the mean of differences over seeds with a 95 % t interval, and whether that excludes 0 (``separated``).

    Of one seed there is no interval, and nothing is separated.
    """
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return {"difference": mean, "low": None, "high": None, "separated": False}
    half = half_width(differences)
    return {"difference": mean, "low": mean - half, "high": mean + half, "separated": abs(mean) > half}


def compared(runs: Sequence[Mapping[str, Row]]) -> Row:
    """Return each contestant's figures over the seeds, and its difference from ``fedkr`` in pairs of one seed."""
    names = [name for name in runs[0] if all(name in rows for rows in runs)]
    found: Row = {}
    for name in names:
        figures = {figure: [rows[name].get(figure) for rows in runs] for figure in FIGURES}
        found[name] = {figure: spread(values) for figure, values in figures.items()}
        for figure, values in figures.items():
            ours = [rows.get(OURS, {}).get(figure) for rows in runs]
            pairs = zip(values, ours, strict=True)
            differences = [value - own for value, own in pairs if value is not None and own is not None]
            if name != OURS and len(differences) == len(runs):
                found[name][figure]["from_ours"] = paired(differences)
    return found


def measure(folders: Sequence[Path], with_seconds: bool) -> Row:
    """Return both protocols' figures of finished runs of one study.

    Raises:
        UserError: an unfinished run, or runs that differ in more than their seed.
    """
    runs, results = [RunFolder.of_run(folder) for folder in folders], [load_results(folder) for folder in folders]
    study = common_study([dict(each) for each in results])
    rows = [{row["name"]: dict(row) for row in each["strategies"]} for each in results]
    seeds = []
    for run, each, found in zip(runs, results, rows, strict=True):
        looks = {site: count for site, (count, _) in scored_at_sites(each).items()}
        seed: Row = {"seed": each["seed"], "looks_of_fedkr": looks}
        seed["equal steps"] = {name: kept(row) for name, row in found.items()}
        if with_seconds:
            seed["equal seconds"] = protocol_b(run, found)
        seeds.append(seed)
    return {
        "looks": search_looks(runs[0].study),
        "compared": compared(rows),
        "seeds": seeds,
        "study": study,
        **provenance(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write what was found; return the exit status."""
    parser = argparse.ArgumentParser(description="Compare all contestants at equal steps, and at equal site-seconds.")
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--seconds", action="store_true", help="train the opponents again, as long as fedkr's sites")
    asked = parser.parse_args(arguments)
    try:
        write_json(asked.out, measure(asked.runs, asked.seconds))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
