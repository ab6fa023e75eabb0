"""What planted canaries showed: those of the label channel and those of the image channel apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedkr.audit.verdict import canaries_claimed
from fedkr.config import CANARY_CHANNELS
from fedkr.report.audit_fields import CanaryRow
from fedkr.report.results import Results
from fedkr.report.selection import audited_targets, headline_rows
from fedkr.report.wording import attack_with_references, auc_interval, decimal, plural, span, target_label

# The channel of runs that were before there was another.
FIRST = next(iter(CANARY_CHANNELS))
CHANNEL_MEANING = {
    "label": "mislabelled, noise or nearly doubled images: what models and soft labels know of single images",
    "image": "outliers, coarse random patterns: what a generator draws again",
}


def channel_of(row: CanaryRow) -> str:
    """Return which channel a row of canaries is about."""
    return row.get("channel") or FIRST


def planted(results: Results) -> dict[str, list[int]]:
    """Return by channel how many canaries each site had."""
    by_channel: dict[str, dict[str, int]] = {}
    for row in results.get("audit_extras", {}).get("canaries", []):
        count = row.get("included", 0) + row.get("excluded", 0)
        by_channel.setdefault(channel_of(row), {})[row["site"]] = count
    return {channel: list(by_channel[channel].values()) for channel in CANARY_CHANNELS if channel in by_channel}


def planted_findings(results: Results) -> list[str]:
    """Return what the attacks whose figures on canaries count in the verdicts found, a line a channel and target."""
    headlines = {(row["site"], row["target"]): row for row in headline_rows(results)}
    claimed: dict[tuple[str, str], list[CanaryRow]] = {}
    for row in results.get("audit_extras", {}).get("canaries", []):
        if canaries_claimed(row, headlines.get((row["site"], row["target"]))):
            claimed.setdefault((channel_of(row), row["target"]), []).append(row)
    places = [(channel, target) for channel in CANARY_CHANNELS for target in audited_targets(results)]
    return [_line(*place, claimed[place], results) for place in places if place in claimed]


def _line(channel: str, target: str, rows: Sequence[CanaryRow], results: Results) -> str:
    known = [row for row in rows if row.get("auc") is not None]
    highest = max(known, key=lambda row: row["auc"] or 0.0, default=None)
    figure = "no figure" if highest is None else f"AUC {_range(known)} at {plural(len(known), 'site')}"
    quoted = "" if highest is None or len(known) < 2 else f", the highest {auc_interval(highest)}"
    by = attack_with_references(rows[0])
    return f"{channel.capitalize()} channel, {target_label(target, results)} ({by}): {figure}{quoted}."


def _range(rows: Sequence[CanaryRow]) -> str:
    aucs = [row["auc"] or 0.0 for row in rows]
    return auc_interval(rows[0]) if len(rows) == 1 else f"{decimal(min(aucs))} to {decimal(max(aucs))}"


def planted_in_words(counts: Mapping[str, Sequence[int]]) -> str:
    """Return how many canaries a site had of each channel, and what they show."""
    parts = [f"{channel} channel, {span(counts[channel])} a site ({CHANNEL_MEANING[channel]})" for channel in counts]
    return f"Planted images, each put in by a fair coin: {'; '.join(parts)}."
