"""The site's own page: which of its images are most exposed, and what it released closest to them. It never leaves."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedkr.audit.challenge import Challenge
from fedkr.audit.copies import ReleaseCopies
from fedkr.audit.figures import AttackResult, AuditReport
from fedkr.audit.statistics.membership import Floats
from fedkr.report.elements import Cell, Markup, definitions, heading, notice, paragraph, section, table
from fedkr.report.samples import fit
from fedkr.report.wording import attack_label
from fedkr.stages import write_atomic

# Of each target.
MOST_EXPOSED = 12
# CSS pixels; smaller images are enlarged with their pixels kept square.
TILE = 96
BANNER = "This page shows private images of this site. It must not leave the site."
# The page may load nothing, whatever it holds.
SAFE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


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
    parts = [*(_exposed(report, challenge) for report in reports), _pairs(copies, challenge.members.classes)]
    write_atomic(path, _page(site, "\n".join(part for part in parts if part)).encode())
    return path


def _page(site: str, body: str) -> str:
    title = f"Local audit of {site}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{SAFE}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{escape(title)}</title>
<style>{files("fedkr.report").joinpath("page.css").read_text()}</style>
</head>
<body>
<header><div><h1>{escape(title)}</h1><p>{escape(BANNER)}</p></div></header>
<main>
{notice("Private", [BANNER, "For the site's own review only: do not send, print or copy it."])}
{body}
</main>
</body>
</html>
"""


def _exposed(report: AuditReport, challenge: Challenge) -> str:
    title = f"Most exposed members: {report.target}"
    name = f"target-{report.target}"
    row = report.headline
    if row is None or row.key not in report.scores:
        return section(name, title, paragraph("No scores of single images: the headline attack was not run."))
    scores = report.scores[row.key]
    members, nonmembers = scores[: len(challenge.members)], scores[len(challenge.members) : challenge.natural]
    order = np.argsort(-members, kind="stable")[:MOST_EXPOSED]
    above = _share_above(members[order], nonmembers)
    lines: list[list[Cell]] = [
        [
            _picture(challenge.members.images[index], "a member"),
            challenge.members.classes[challenge.members.labels[index]],
            str(index),
            f"{members[index]:.4g}",
            f"{100 * share:.2g} %",
        ]
        for index, share in zip(order, above, strict=True)
    ]
    titles = ["image", "label", "member", "score", "non-members as high"]
    return section(name, title, paragraph(_explained(row)), table(titles, lines, 2, [""] * len(lines)))


def _explained(row: AttackResult) -> str:
    references = "" if row.references == "none" else f" with {row.references} references"
    return (
        f"{attack_label(row.attack)}{references}: AUC {row.metrics.auc:.3f} "
        f"({row.metrics.auc_low:.3f} to {row.metrics.auc_high:.3f}). A member is exposed where few non-members score "
        "as high; with an AUC near 0.5 the first of this list are there by chance."
    )


def _share_above(scores: Floats, nonmembers: Floats) -> Floats:
    """Return, for each score, the share of non-members that reach it: the FPR at which an attacker would find it."""
    return 1 - np.searchsorted(np.sort(nonmembers), scores, side="left") / len(nonmembers)


def _pairs(copies: ReleaseCopies | None, classes: tuple[str, ...]) -> str:
    if copies is None:
        return ""
    pairs = copies.pairs
    lines: list[list[Cell]] = [
        [
            _picture(member, "a member"),
            _picture(released, "the released image closest to it"),
            classes[label],
            f"{distance:.4g}",
            "suspected copy" if distance <= copies.suspects.threshold else "",
        ]
        for member, released, label, distance in zip(
            pairs.members, pairs.released, pairs.labels, pairs.distances, strict=True
        )
    ]
    titles = ["member", "released", "label", "distance", ""]
    return section(
        "copies", "Released images closest to members", _figures(copies), table(titles, lines, 3, [""] * len(lines))
    )


def _figures(copies: ReleaseCopies) -> str:
    found = copies.figures
    verdict = "found: members are hit more often than non-members" if found.flagged else "not found"
    return heading("Copy check") + definitions(
        {
            "copies": f"{verdict} (one-sided Fisher test, p = {found.p_value:.2g})",
            "a suspected copy": f"closer than {copies.suspects.threshold:.4g}, as 1 % of members are to each other",
            "released images": f"{found.released:,}: {found.suspects:,} suspected copies, {found.verbatim:,} verbatim",
            "share": f"{100 * found.share:.2f} %; of fresh real images {100 * found.chance_share:.2f} %",
            "members found": f"{found.members_found:,} of {found.members:,}",
            "non-members found": f"{found.nonmembers_found:,} of {found.nonmembers:,}",
        }
    )


def _picture(image: NDArray[np.uint8], alt: str) -> Markup:
    buffer = io.BytesIO()
    Image.fromarray(fit(image, TILE)).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup(f'<img width="{TILE}" height="{TILE}" alt="{escape(alt)}" src="data:image/png;base64,{data}">')
