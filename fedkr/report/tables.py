"""The comparison and the audit as tables for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedkr.audit.verdict import CHANCE, FOUND, NONE_FOUND, UNCLEAR
from fedkr.report import wording
from fedkr.report.audit_fields import AuditRow
from fedkr.report.conclusions import copies_found
from fedkr.report.results import Results
from fedkr.report.selection import adversary, audited_sites, headline_by_target, references_kind, verdict_counts
from fedkr.site_name import ALL_SITES

MANY_SITES = 4
_VERDICT_TITLES = {FOUND: "leak", UNCLEAR: "unclear", NONE_FOUND: "none"}


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
            Text(wording.strategy_label(strategy["name"])),
            wording.percent(strategy.get("accuracy")),
            wording.percent(strategy.get("balanced_accuracy")),
            wording.decimal(strategy.get("auc")),
            wording.size(strategy.get("bytes_up")),
            wording.size(strategy.get("bytes_down")),
            wording.duration(strategy.get("seconds")),
            _at_sites([score.get("accuracy") for score in strategy.get("per_site", [])]),
        )
    table.caption = "up, down: from and to all sites together; own tests: each site on its own"
    return table


def _table(title: str) -> Table:
    return Table(
        # Text: names in it are not markup.
        title=Text(title),
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
    """Return the headline attack on each target over all sites together, and how many sites got which verdict."""
    by_target, counts = headline_by_target(results), verdict_counts(results)
    attacks = [wording.attack_label(row["attack"]) for shown in by_target.values() for row in shown]
    table = _table(f"Membership audit, headline attack: {attacks[0] if attacks else 'none'}")
    table.add_column("target")
    for title in ("AUC [95 %]", "TPR at 1 %", *_VERDICT_TITLES.values()):
        table.add_column(title, justify="right")
    previous = ""
    for target, shown in by_target.items():
        row = shown[-1] if shown[-1]["site"] == ALL_SITES else None
        who = adversary(shown[0])
        if previous and who != previous:
            table.add_section()
        previous = who
        leaking = row is not None and (row.get("auc_low") or 0.0) > CHANCE
        numbers = [counts[target][verdict] for verdict in _VERDICT_TITLES]
        table.add_row(
            _target(target, shown[0], results),
            Text(wording.auc_interval(row) if row else wording.NONE, style="red" if leaking else ""),
            _short_tpr(row) if row else wording.NONE,
            *(Text(str(number), style="bold" if number else "dim") for number in numbers),
        )
    sites, by = wording.plural(len(audited_sites(results)), "site"), wording.intervals_by(results.get("audit", []))
    caption = (
        f"{sites} together; guessing: AUC 0.5, TPR in brackets; red: interval of the AUC above it\n"
        + (f"intervals {by}\n" if by else "")
        + "below each target: who could attack it · the attack's reference models\n"
        "leak, unclear, none: how many sites got this verdict"
    )
    # Text: sites' names in it are not markup.
    table.caption = Text("\n".join(filter(None, [caption, copies_found(results)])))
    return table


def _target(target: str, row: AuditRow, results: Results) -> Text:
    """Return what was attacked, and below it by whom and with which reference models."""
    references = references_kind(row)
    below = f"{adversary(row)} · {references}" if references else adversary(row)
    return Text.assemble(wording.target_label(target, results), "\n", (below, "dim"))


def _short_tpr(row: AuditRow) -> str:
    tpr, _, _ = wording.tpr_figures(row, 0.01)
    guessing = wording.guessing_figure(row, 0.01)
    beside = f" ({wording.percent(guessing)})" if guessing else ""
    return wording.NOT_RESOLVABLE if tpr is None else wording.percent(tpr) + beside
