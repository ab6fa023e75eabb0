"""The worst case: how surely planted images, which are unlike all others, are told from such that were left out.

``python -m simulations.evidence.worst_case OUT.json RUN ...`` keeps what finished audits with canaries found of these,
by site, attack and channel (a wrong label, or an odd image), beside accuracy on test, and prints a table: of each model
by the audit's headline attack, of a release by the nearest image in pixels, the mean over the sites and its range.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedkr.audit.targets import RELEASE
from fedkr.disk import write_json
from fedkr.errors import UserError
from fedkr.report.results import Results, load_results
from fedkr.report.wording import percent
from simulations.evidence.audited import columns
from simulations.study.summary import common_study

FIGURES = ("name", "accuracy", "balanced_accuracy", "auc")
OF_RELEASES = "distance-pixels"
RATE = "tpr_at_fpr_0.1"
KEPT = ("target", "site", "attack", "references", "channel", "included", "excluded", "auc", "auc_low", "auc_high")
Row = dict[str, Any]


def kept(results: Results) -> Row:
    """Return what is published of a run: study, accuracies and canaries.

    Raises:
        UserError: no canary was planted in it.
    """
    rows = map(dict, results.get("audit_extras", {}).get("canaries", []))
    canaries = [{name: row.get(name) for name in (*KEPT, RATE)} for row in rows]
    if not canaries:
        raise UserError(f"the run of seed {results['seed']} planted no canaries: set audit.canaries")
    strategies = [{name: row[name] for name in FIGURES if name in row} for row in map(dict, results["strategies"])]
    names = ("seed", "hardware", "versions")
    of_run: Row = {name: results[name] for name in names if name in results}  # type: ignore[literal-required]
    return of_run | {"study": common_study([results]), "strategies": strategies, "canaries": columns(canaries)}


def claimed(run: Row) -> list[Row]:
    """Return the rows that the table shows: each target's by one attack, fixed beforehand."""
    headline = run["study"]["audit"]["headline"]
    wanted = {True: OF_RELEASES, False: headline}
    columns_of = run["canaries"]
    rows = [dict(zip(columns_of, values, strict=True)) for values in zip(*columns_of.values(), strict=True)]
    return [row for row in rows if row["attack"] == wanted[row["target"] == RELEASE]]


def table(runs: Sequence[Row], labels: Sequence[str]) -> str:
    """Return a line for each run's target and channel, in Markdown."""
    lines = [["run", "target", "channel", "AUC, mean of the sites", "TPR at 10 % FPR", "in, out"], ["---"] * 6]
    for run, label in zip(runs, labels, strict=True):
        rows = claimed(run)
        for target, channel in dict.fromkeys((row["target"], row["channel"]) for row in rows):
            own = [row for row in rows if (row["target"], row["channel"]) == (target, channel)]
            counts = f"{sum(row['included'] for row in own)}, {sum(row['excluded'] for row in own)}"
            auc = _spread([row.get("auc") for row in own])
            shares = [row[RATE] for row in own if row.get(RATE) is not None]
            rate = percent(statistics.fmean(shares)) if shares else "-"
            lines.append([f"{label}, seed {run['seed']}", target, channel, auc, rate, counts])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.fmean(known):.2f} ({min(known):.2f} to {max(known):.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    try:
        runs = [kept(load_results(run)) for run in given.runs]
        write_json(given.out, {"runs": runs})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(runs, [run.name for run in given.runs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
