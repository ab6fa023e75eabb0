"""The site's own page: which of its images are most exposed, and what it released closest to them. It never leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.audit.challenge import Challenge
from fedkr.audit.copies import ReleaseCopies
from fedkr.audit.findings import AuditReport
from fedkr.audit.targets import row_key
from fedkr.disk import write_atomic
from fedkr.report.pages.frame import render, tile
from fedkr.resampling import Floats

# Of each target.
MOST_EXPOSED = 12
# CSS pixels; smaller images are enlarged with their pixels kept square.
TILE = 96
BANNER = "This page shows private images of this site. It must not leave the site."


def write_local_report(
    path: Path,
    site: str,
    reports: Sequence[AuditReport],
    challenge: Challenge,
    copies: ReleaseCopies | None = None,
) -> Path:
    """Write one self-contained HTML page for the site's own eyes, and return its path.

    It shows, for each report, the members that its headline attack is surest of, and the closest pairs of a member and
    a released image. Write it into the site's workspace only, which no message carries.

    Args:
        path: the file; an older one is replaced.
        site: the site's name.
        reports: with the scores of single images (:attr:`AuditReport.scores`); one without is named as lacking them.
        challenge: whose members and non-members the scores are of.
        copies: the copy check of what the site released, or None.
    """
    view = {
        "title": f"Local audit of {site}",
        "subtitle": BANNER,
        "targets": [{"report": report, "exposed": _exposed(report, challenge)} for report in reports],
        "copies": copies,
        "pairs": _pairs(copies, challenge.members.classes) if copies else [],
    }
    write_atomic(path, render("site_audit.html", view).encode())
    return path


def _exposed(report: AuditReport, challenge: Challenge) -> list[dict[str, Any]]:
    """Return the members that the headline attack is surest of; empty where it has no scores of single images."""
    row = report.headline
    scores = None if row is None else report.scores.get(row_key(row["attack"], row["references"]))
    if scores is None:
        return []
    members, nonmembers = np.split(scores, [len(challenge.members)])
    counted, of_nonmembers = np.split(report.counted, [len(challenge.members)])
    nonmembers, shown = nonmembers[of_nonmembers], np.flatnonzero(counted)
    order = shown[np.argsort(-members[shown], kind="stable")[:MOST_EXPOSED]]
    above = _share_above(members[order], nonmembers)
    return [
        {
            "image": tile(challenge.members.images[index], TILE),
            "label": challenge.members.classes[challenge.members.labels[index]],
            "member": index,
            "score": members[index],
            "nonmembers_above": share,
        }
        for index, share in zip(order, above, strict=True)
    ]


def _share_above(scores: Floats, nonmembers: Floats) -> Floats:
    """Return, for each score, the share of non-members that reach it: the FPR at which an attacker would find it."""
    return 1 - np.searchsorted(np.sort(nonmembers), scores, side="left") / len(nonmembers)


def _pairs(copies: ReleaseCopies, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    pairs = copies.pairs
    return [
        {"member": tile(member, TILE), "released": tile(released, TILE), "label": classes[label], "distance": distance}
        for member, released, label, distance in zip(
            pairs.members, pairs.released, pairs.labels, pairs.distances, strict=True
        )
    ]
