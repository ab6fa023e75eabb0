"""All strategies in the plane of accuracy and privacy, as a server and as an outsider sees them, in one picture.

``python -m simulations.evidence.plane OUT.png AUDITED.json [LABEL=RUN ...]`` draws the first seed of what
``simulations.evidence.audited`` kept, and beside it finished runs of the same sites under other options, whose
strategies and targets get the label: ``"epsilon 8=RUN"``. It is the report's own plane.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fedkr.audit.targets import RELEASE, ROUNDS
from fedkr.disk import write_atomic
from fedkr.errors import UserError
from fedkr.report.plots.audit import plane_chart
from fedkr.report.plots.style import to_png
from fedkr.report.results import Results, load_results
from fedkr.report.selection import kind_and_owner

Row = dict[str, Any]
# What else the report's plane reads.
SHARED = ("study", "sites", "audit_extras")
# Kind and owner of each target of a study of FedAvg and fedkr, for files that do not say it.
USUAL = {
    **{name: (name, "fedkr") for name in ("student", "site-student", RELEASE, "teacher")},
    **{"local": ("local", "local"), "centralised": ("oracle", "centralised")},
    **{"fedavg": ("weights", "fedavg"), "fedavg-update": ("update", "fedavg"), "fedavg-rounds": (ROUNDS, "fedavg")},
}


def audited(path: Path) -> Results:
    """Return the first run that :mod:`simulations.evidence.audited` kept, as results with rows again."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; name a file of simulations.evidence.audited") from None
    run = kept["runs"][0]
    columns = run["audit"]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return with_targets(cast(Results, run | {"study": kept["study"], "audit": rows}))


def with_targets(results: Results) -> Results:
    """Return results that say whose each target is."""
    usual = [{"name": name, "kind": kind, "contestant": owner} for name, (kind, owner) in USUAL.items()]
    return cast(Results, {**results, "targets": results.get("targets") or usual})


def labelled(results: Results, label: str) -> tuple[list[Row], list[Row], list[Row]]:
    """Return a run's strategies, targets and audit rows under names with a label."""

    def named(name: str) -> str:
        return f"{name}, {label}" if label else name

    known = dict.fromkeys(row["target"] for row in results["audit"])
    owners = {target: kind_and_owner(results, target) for target in known}
    strategies = [dict(row) | {"name": named(row["name"])} for row in results["strategies"]]
    targets = [
        {"name": named(target), "kind": kind, "contestant": named(owner)} for target, (kind, owner) in owners.items()
    ]
    rows = [dict(row) | {"target": named(row["target"])} for row in results["audit"]]
    return strategies, targets, rows


def together(first: Results, others: Mapping[str, Results]) -> Results:
    """Return results with the strategies, targets and audit rows of all runs."""
    found: Row = {name: first[name] for name in SHARED if name in first}  # type: ignore[literal-required]
    found |= {name: [dict(row) for row in first[name]] for name in ("strategies", "audit")}
    found["targets"] = [dict(row) for row in first.get("targets", [])]
    for label, results in others.items():
        for name, rows in zip(("strategies", "targets", "audit"), labelled(results, label), strict=True):
            found[name] += rows
    return cast(Results, found)


def main(words: Sequence[str]) -> int:
    """Draw the picture."""
    out, first, *others = words
    try:
        runs = {
            label: with_targets(load_results(Path(run))) for label, _, run in (word.partition("=") for word in others)
        }
        figure = plane_chart(together(audited(Path(first)), runs))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if figure is None:
        print(f"error: {first}: no strategy was audited", file=sys.stderr)
        return 2
    write_atomic(Path(out), to_png(figure, 120))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
