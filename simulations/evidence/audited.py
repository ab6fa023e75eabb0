"""What whole audits found: the rows of runs of one study that differ in their seed, and a table of them in Markdown.

``python -m simulations.evidence.audited OUT.json RUN ...`` keeps every attack on every target, the verdicts and what
stands beside them, but no curves, and prints the headline attack of each target, over all sites together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedkr.audit.verdict import FOUND, NONE_FOUND, UNCLEAR
from fedkr.disk import write_atomic
from fedkr.errors import UserError
from fedkr.report.audit_fields import AuditRow
from fedkr.report.results import Results, load_results
from fedkr.report.selection import (
    audited_targets,
    headline_by_target,
    references_kind,
    verdict_counts,
    verdict_rows,
    verdicts_by_site,
)
from fedkr.report.wording import attack_label, decimal, percent, target_label
from fedkr.site_name import ALL_SITES
from simulations.study.summary import common_study

KEPT = ("seed", "audit_extras", "recycling", "data", "missing_sites", "backend", "hardware", "versions", "seconds")
FIGURES = ("name", "accuracy", "balanced_accuracy", "auc", "seconds", "bytes_up", "bytes_down", "tuning")
OF_TARGETS = ("name", "kind", "contestant")
Row = dict[str, Any]


def kept(results: Results) -> Row:
    """Return what is published of a run: all that was measured, without curves and single steps."""
    found: Row = {name: results[name] for name in KEPT if name in results}  # type: ignore[literal-required]
    found["sites"] = results.get("sites", [])
    found["targets"] = [{name: row[name] for name in OF_TARGETS} for row in map(dict, results.get("targets", []))]
    found["audit"] = columns([dict(row) for row in results.get("audit", [])])
    found["strategies"] = [
        {name: row[name] for name in FIGURES if name in row} for row in map(dict, results["strategies"])
    ]
    return found


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return rows as columns, null where a row has no value: a fifth of the size of named fields, row by row."""
    names = dict.fromkeys(name for row in rows for name in row if name != "roc")
    return {name: [row.get(name) for row in rows] for name in names}


def table(runs: Sequence[Results]) -> str:
    """Return a line a target: the headline attack over all sites, each seed's AUC and TPR, and all verdicts."""
    seeds = [f"seed {run['seed']}" for run in runs]
    head = ["target", "headline attack, references", *[f"AUC, {seed}" for seed in seeds], "TPR at 1 % FPR"]
    lines = [[*head, "over all sites", "sites: found / cannot tell / none found"]]
    lines.append(["---"] * len(lines[0]))
    for target in dict.fromkeys(target for run in runs for target in audited_targets(run)):
        rows = [headline_by_target(run).get(target, []) for run in runs]
        pooled = [found[-1] if found and found[-1]["site"] == ALL_SITES else None for found in rows]
        met = dict.fromkeys(f"{attack_label(row['attack'])}, {references_kind(row)}" for row in pooled if row)
        overall = [verdicts_by_site(run).get(target, {}).get(ALL_SITES, "-") for run in runs]
        counts = sum((verdict_counts(run).get(target, Counter()) for run in runs), Counter())
        sites = " / ".join(str(counts[verdict]) for verdict in (FOUND, UNCLEAR, NONE_FOUND))
        rates = ", ".join(percent(row.get("tpr_at_fpr_0.01")) if row else "-" for row in pooled)  # type: ignore[arg-type]
        aucs = [_auc(row) for row in pooled]
        lines.append([target_label(target, runs[0]), "; ".join(met), *aucs, rates, ", ".join(overall), sites])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _auc(row: AuditRow | None) -> str:
    if row is None:
        return "-"
    return f"{decimal(row.get('auc'))} [{decimal(row.get('auc_low'))}, {decimal(row.get('auc_high'))}]"


def reasons(runs: Iterable[Results]) -> Counter[str]:
    """Return how often each verdict had which reason, with what varies from one to the next left out."""
    rows = (row for run in runs for row in verdict_rows(run))
    return Counter(f"{row['verdict']}: {_kind_of(row.get('reason') or '')}" for row in rows)


def _kind_of(reason: str) -> str:
    words = ["#" if any(letter.isdigit() for letter in word) else word for word in reason.split()]
    return " ".join(words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep what the audits found, and print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description="Bring the audits of runs that differ in their seed together.")
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    asked = parser.parse_args(arguments)
    try:
        runs = [load_results(folder) for folder in asked.runs]
        if unnamed := [str(folder) for folder, run in zip(asked.runs, runs, strict=True) if "seed" not in run]:
            raise UserError(f"{unnamed[0]}: its results name no seed")
        study = common_study([dict(run) for run in runs])
        # In one line: thousands of figures, which nobody reads here.
        write_atomic(asked.out, json.dumps({"study": study, "runs": [kept(run) for run in runs]}).encode() + b"\n")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(runs))
    print(*[f"{count} x {reason}" for reason, count in reasons(runs).most_common()], sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
