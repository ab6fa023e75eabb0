"""All sites together, from the sites' own figures: counts are added, scores of different sites never compared.

A site says itself how many images it has. Of three and more, one counts for at most as much as all others together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from fedkr.audit.statistics.membership import (
    ENDS,
    Interval,
    fprs_of,
    guessing_tpr,
    resolvable,
    tpr_name,
    with_limits,
)
from fedkr.site_name import ALL_SITES

Row = Mapping[str, Any]
# Units of the intervals of several sites, where they are not the same.
MIXED = "mixed"


def pooled_rows(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return one row with the site ``all sites`` for each target, attack and kind of references.

    - AUC: the pairs of a member and a non-member of one site that the attack ranks right, over all such pairs.
    - TPR at an FPR: members found, each site's at its own threshold, over all members. A site with too few non-members
      for the FPR adds the members above all of its non-members; None where all sites' non-members together are too few.
      What guessing has stands beside it (``guessing_tpr_at_fpr_*``).
    - Intervals: the sites are independent, so the squared distances from estimate to limit add up, with the squares of
      the sites' weights, separately for the lower and the upper limit (Zou & Donner 2008). Clopper-Pearson would take
      the thresholds, which each site estimated from the same images, for known.

    What the intervals resample is ``mixed`` where some sites resample images and others patients.

    Where a site has more pairs (members, non-members) than all others together, it counts as if it had as many
    (:func:`within_reason`).

    Of the rows of ``results.json`` those that are pooled already, and those without an AUC, are passed over.
    """
    return [_pooled(found) for found in _by_attack(rows)]


def pooled_patients(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the same of rows of ``audit_extras.patients``, without what only rows of images have."""
    found = list(rows)
    known = {"site", "sites"}.union(*found)
    return [{name: value for name, value in row.items() if name in known} for row in pooled_rows(found)]


def within_reason(counts: Sequence[int]) -> list[int]:
    """Return counts of three and more sites, none above the sum of all others, and those of fewer as they are."""
    total = sum(counts)
    return [min(count, total - count) for count in counts] if len(counts) > 2 else list(counts)


def pairs_of(row: Row) -> int:
    """Return how many pairs of a member and a non-member there are."""
    return int(row["members"] * row["nonmembers"])


def outweighing(rows: Iterable[Row]) -> list[str]:
    """Return the sites whose weight in a pooled figure of an attack, AUC or TPR, is cut to that of all others."""
    found: dict[str, None] = {}
    for own in _by_attack(rows):
        for weight in (pairs_of, itemgetter("members"), itemgetter("nonmembers")):
            said = [weight(row) for row in own]
            found |= {row["site"]: None for row, a, b in zip(own, said, within_reason(said), strict=True) if b < a}
    return list(found)


def worst_site(rows: Iterable[Row]) -> list[Row]:
    """Return, for each target, attack and kind of references, the row of the site with the highest AUC.

    The highest of several AUCs lies above 0.5 by chance: read it with its interval and the number of sites.
    """
    worst: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["site"] == ALL_SITES or row.get("auc") is None:
            continue
        if _attack(row) not in worst or row["auc"] > worst[_attack(row)]["auc"]:
            worst[_attack(row)] = row
    return list(worst.values())


def _by_attack(rows: Iterable[Row]) -> Iterable[list[Row]]:
    """Return the sites' rows that have an AUC, for each target, attack and kind of references."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["site"] != ALL_SITES and row.get("auc") is not None:
            found[_attack(row)].append(row)
    return found.values()


def _attack(row: Row) -> tuple[Any, ...]:
    return row["target"], row["attack"], row.get("references", "none")


def _pooled(rows: Sequence[Row]) -> dict[str, Any]:
    members, nonmembers = (sum(row[side] for row in rows) for side in ("members", "nonmembers"))
    pairs = within_reason([pairs_of(row) for row in rows])
    pooled = {key: rows[0].get(key) for key in ("target", "attack", "references", "adversary")}
    # A model from elsewhere is of no kind.
    pooled |= {"kind": rows[0]["kind"]} if "kind" in rows[0] else {}
    pooled |= {"site": ALL_SITES, "sites": len(rows), "others": _all_others(rows)} | _unit(rows)
    pooled |= with_limits("auc", _combined([_interval(row, "auc") for row in rows], pairs))
    for fpr in fprs_of(rows[0]):
        pooled |= _pooled_tpr(rows, fpr)
    pooled |= with_limits("balanced_accuracy", None) | {"members": members, "nonmembers": nonmembers}
    pooled["duplicates"] = sum(row.get("duplicates", 0) for row in rows)
    elsewhere = sum(row.get("elsewhere", 0) for row in rows)
    pooled |= {"elsewhere": elsewhere} if elsewhere else {}
    return pooled | {"headline": int(all(row.get("headline") for row in rows)), "roc": None}


def _pooled_tpr(rows: Sequence[Row], fpr: float) -> dict[str, float | None]:
    """Return the TPR over all sites with its limits and, where they resolve it, what guessing has."""
    key = tpr_name(fpr)
    if not resolvable(fpr, sum(within_reason([row["nonmembers"] for row in rows]))):
        return with_limits(key, None)
    members = within_reason([row["members"] for row in rows])
    found = _combined([_interval(row, key) or _interval(row, f"unresolved_{key}") for row in rows], members)
    guessing = sum(n * guessing_tpr(fpr, row["nonmembers"]) for n, row in zip(members, rows, strict=True))
    return with_limits(key, found) | ({f"guessing_{key}": guessing / sum(members)} if found else {})


def _interval(row: Row, key: str) -> Interval | None:
    rate, low, high = (row.get(f"{key}{end}") for end in ENDS)
    return None if rate is None or low is None or high is None else (rate, low, high)


def _combined(intervals: Sequence[Interval | None], counts: Sequence[int]) -> Interval | None:
    """Return the mean of independent rates, weighted by counts; None where a site has none."""
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None
    rates, lows, highs = np.array(known).T
    weights = np.array(counts, dtype=np.float64) / sum(counts)
    rate = float(weights @ rates)
    down, up = (float(np.sqrt(weights**2 @ np.maximum(gap, 0) ** 2)) for gap in (rates - lows, highs - rates))
    return rate, max(rate - down, 0.0), min(rate + up, 1.0)


def _unit(rows: Sequence[Row]) -> dict[str, str]:
    found = {row["unit"] for row in rows if "unit" in row}
    return {"unit": found.pop() if len(found) == 1 else MIXED} if found else {}


def _all_others(rows: Sequence[Row]) -> bool | None:
    known = [row["others"] for row in rows if row.get("others") is not None]
    return all(known) if known else None
