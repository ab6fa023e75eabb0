"""An audit's documents as they leave a hospital: rates on a grid, members and non-members as rounded counts.

Exact rates are fractions over counts of private images, and several of them give the counts away. A rate is rounded to
the nearest multiple, its limits alike, since a verdict compares them with fixed numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fedkr.audit.challenge import Challenge
from fedkr.audit.coins import usual_guesses
from fedkr.audit.document import PART_STEP, Document
from fedkr.audit.findings import Row
from fedkr.audit.statistics.membership import ENDS, resolvable, tpr_name
from fedkr.config import QUANTILE, AuditConfig
from sites.coarse import Grid, coarse_p_value
from sites.figures import audit_grid, least_of_class, public_count
from sites.policy import COUNT_STEP, PolicyError
from sites.workspace import Site

COUNTED = ("members", "nonmembers")


def check_enough(site: Site, smaller_side: int) -> None:
    """Raise :class:`PolicyError` where an audit would have figures of fewer images a side than the policy asks for."""
    least = site.policy.min_evaluated
    if smaller_side < least:
        raise PolicyError(f"an audit needs {least} members and {least} non-members (policy.min_evaluated)")


def public_config(site: Site, config: AuditConfig, challenge: Challenge) -> AuditConfig:
    """Return the settings of an audit; how many coins are guessed follows from a count that may leave.

    Where figures leave coarsely, ``quantile`` is left out: a server that sends a model of its own making could let one
    image of the population, which the attack fits a regression to, move the figure by more than a step.

    One guess is an answer about one image, so that there are as many as a figure needs images. Right ones leave as
    multiples of ``PART_STEP``: so do guesses, or a perfect attack would not show all that they could.
    """
    if site.policy.coarse:
        config = dataclasses.replace(config, attacks=[name for name in config.attacks if name != QUANTILE])
    if site.policy.exact_counts or not config.coins:
        return config
    coins = challenge.natural // COUNT_STEP * COUNT_STEP
    guesses = max(min(config.guesses or usual_guesses(coins), coins // 2), site.policy.min_evaluated)
    return dataclasses.replace(config, guesses=-(-guesses // PART_STEP) * PART_STEP)


def public_findings(site: Site, document: Document, challenge: Challenge) -> Document:
    """Return the document of an audit as it may leave."""
    found = {name: [dict(row) for row in rows] for name, rows in document.items()}
    patients = min((row[side] for row in found["patients"] for side in COUNTED), default=0)
    if patients < site.policy.min_evaluated:
        found["patients"] = []
    if not site.policy.exact_counts:
        for row in (*found["audit"], *found["patients"]):
            _round_counts(site, row)
        if site.study.audit.coins:
            for row in found["epsilon"]:
                if "coins" in row:
                    if row["guesses"] < site.policy.min_evaluated:
                        raise PolicyError("an audit's coins are too few (policy.min_evaluated)")
                    all_guessed = row["guesses"] == row["coins"]
                    row["coins"] = -(-row["coins"] // COUNT_STEP) * COUNT_STEP
                    row["guesses"] = row["coins"] if all_guessed else row["guesses"]
                    # Down, which makes the bound on epsilon no larger than it is.
                    row["correct"] -= row["correct"] % PART_STEP
        found["copies"] = [_round_copies(site, row) for row in found["copies"]]
    if site.policy.coarse:
        grid = audit_grid(site, challenge.smaller_side)
        for row in (*found["audit"], *found["canaries"]):
            _round_rates(row, grid)
        for row in found["patients"]:
            _round_rates(row, audit_grid(site, patients))
        found["two_sample"] = [row | {"p_value": coarse_p_value(row["p_value"])} for row in found["two_sample"]]
        found["per_class"] = [_round_classes(site, row, grid, challenge) for row in found["per_class"]]
    return found


def public_comparison(site: Site, document: Document, smaller_sides: Sequence[int]) -> Document:
    """Return the document of a comparison as it may leave.

    ``smaller_sides`` are the members or non-members, whichever are fewer: those of the site's challenge come first,
    then those of each pair.
    """
    if not site.policy.coarse:
        return document
    whole, *grids = (audit_grid(site, count) for count in smaller_sides)
    blind = [
        row
        | {"auc": whole.rate(row["auc"])}
        | {name: coarse_p_value(row[name]) for name in ("p_value", "classes_p_value")}
        for row in document["blind"]
    ]
    ends = ("difference", "low", "high")
    paired = [
        row | {end: grid.difference(row[end]) for end in ends}
        for row, grid in zip(document["paired"], grids, strict=True)
    ]
    return {"blind": blind, "paired": paired}


def _round_counts(site: Site, row: Row) -> None:
    row |= {name: public_count(site, row[name]) for name in COUNTED}
    if "duplicates" in row:
        row["duplicates"] = round(row["duplicates"] / COUNT_STEP) * COUNT_STEP
    # Whether so many non-members resolve a rate is read off the count that leaves.
    for fpr in site.study.audit.fprs:
        known, hidden = tpr_name(fpr), f"unresolved_{tpr_name(fpr)}"
        rates = [row.pop(f"{hidden}{end}", None) if row.get(known) is None else row[f"{known}{end}"] for end in ENDS]
        resolved = resolvable(fpr, row["nonmembers"])
        for end, rate in zip(ENDS, rates, strict=True):
            row.pop(f"{hidden}{end}", None)
            row[f"{known}{end}"] = rate if resolved else None
            if not resolved:
                row[f"{hidden}{end}"] = rate


def _round_copies(site: Site, row: Row) -> Row:
    """Round whole sets as counts are, and their parts to ``PART_STEP``: up, where images equal byte by byte."""
    wholes = {name: public_count(site, row[name]) for name in (*COUNTED, "holdout")}
    verbatim = -(-row["verbatim"] // PART_STEP) * PART_STEP
    parts = {
        "suspects": min(row["released"], max(_part(row["suspects"]), verbatim)),
        "verbatim": min(row["released"], verbatim),
        "holdout_near": min(wholes["holdout"], _part(row["holdout_near"])),
        **{f"{name}_found": min(wholes[name], _part(row[f"{name}_found"])) for name in COUNTED},
    }
    return row | wholes | parts


def _part(count: int) -> int:
    return round(count / PART_STEP) * PART_STEP


def _round_rates(row: Row, grid: Grid) -> None:
    for name, value in row.items():
        if isinstance(value, float):
            row[name] = grid.rate(value)
    if "roc" in row:
        points = [[grid.rate(rate) for rate in point] for point in row["roc"]]
        row["roc"] = [point for i, point in enumerate(points) if point not in points[:i]]


def _round_classes(site: Site, row: Row, grid: Grid, challenge: Challenge) -> Row:
    """Round the AUCs of classes; those with too few members or non-members are left out.

    Without exact counts, how many are too few is the site's secret: which classes are left out shows no count.
    """
    least = least_of_class(site)
    few = [min(counts) < least for counts in zip(*(side.class_counts() for side in challenge.sides), strict=True)]

    def rounded(values: list[Any]) -> list[Any]:
        return [None if v is None or none else grid.rate(v) for v, none in zip(values, few, strict=True)]

    return row | {name: rounded(row[name]) for name in ("auc", "low", "high")}
