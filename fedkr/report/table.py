"""The comparison and the audit as tables for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedkr.report.results import Results, headline_rows
from fedkr.report.verdict import CHANCE
from fedkr.report.wording import (
    NOT_RESOLVABLE,
    attack_label,
    auc_interval,
    decimal,
    duration,
    percent,
    size,
    strategy_label,
    target_label,
)

MANY_SITES = 4


def print_tables(results: Results, console: Console | None = None) -> None:
    """Print the comparison and, where there was one, the audit."""
    console = console or Console()
    console.print(comparison_table(results))
    if results.get("audit"):
        console.print(audit_table(results))


def comparison_table(results: Results) -> Table:
    """Return one row per strategy: scores on the global test images, bytes, time, and accuracy at the sites."""
    table = _table("Comparison on the global test images")
    table.add_column("strategy", no_wrap=True)
    for title in ("accuracy", "balanced", "AUC", "up", "down", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("own tests")
    for strategy in results["strategies"]:
        table.add_row(
            Text(strategy_label(strategy["name"]), style="bold" if strategy["name"] == "fedkr" else ""),
            percent(strategy.get("accuracy")),
            percent(strategy.get("balanced_accuracy")),
            decimal(strategy.get("auc")),
            size(strategy.get("bytes_up")),
            size(strategy.get("bytes_down")),
            duration(strategy.get("seconds")),
            _at_sites([score.get("accuracy") for score in strategy.get("per_site", [])]),
        )
    table.caption = "up, down: from and to all sites together; own tests: each site on its own"
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def _at_sites(accuracies: list[float | None]) -> str:
    known = [value for value in accuracies if value is not None]
    if not known:
        return "-"
    if len(accuracies) > MANY_SITES:
        return f"{100 * min(known):.0f} to {100 * max(known):.0f}"
    return " ".join("-" if value is None else f"{100 * value:.1f}" for value in accuracies)


def audit_table(results: Results) -> Table:
    """Return one row per target and site for the headline attack, with what chance would give."""
    rows = headline_rows(results)
    attack = attack_label(rows[0]["attack"]) if rows else "none"
    table = _table(f"Membership audit, headline attack: {attack}")
    for title in ("target", "site"):
        table.add_column(title, no_wrap=True)
    for title in ("AUC [95 %]", "TPR at 1 % FPR", "members", "others"):
        table.add_column(title, justify="right", no_wrap=True)
    previous = ""
    for row in rows:
        label = target_label(row["target"], results)
        if previous and label != previous:
            table.add_section()
        leaking = (row.get("auc_low") or 0.0) > CHANCE
        table.add_row(
            Text("" if label == previous else label),
            Text(row["site"]),
            Text(auc_interval(row), style="red" if leaking else ""),
            NOT_RESOLVABLE if row.get("tpr_at_fpr_0.01") is None else percent(row.get("tpr_at_fpr_0.01")),
            f"{row.get('members', 0):,}",
            f"{row.get('nonmembers', 0):,}",
        )
        previous = label
    table.caption = "chance level: AUC 0.5, TPR 1 %; red: interval above it; others: held-out"
    return table
