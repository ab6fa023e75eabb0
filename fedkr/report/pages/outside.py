"""The page of an outside model's audit: the verdict, what was tested, the figures; one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkr.report.coverage import tested
from fedkr.report.pages.frame import pictures, render
from fedkr.report.plots.audit import forest_chart, roc_chart
from fedkr.report.results import check_results

CONTROL = (
    "A classifier of the same architecture that this audit itself overfitted to the members. "
    "An attack that does not detect it proves nothing by finding nothing in the model."
)
DIRECT = "{} direct ones: classifiers trained on random halves of members and non-members together."


def render_outside(document: Mapping[str, Any]) -> str:
    """Return the whole page.

    Args:
        document: what ``audit.json`` holds: ``model``, ``kind``, ``data``, ``notes``, ``recipe``, ``study.audit``,
            ``audit`` and ``audit_extras``.

    Raises:
        UserError: rows of another shape.
    """
    results = check_results({"strategies": [], **{key: document[key] for key in ("study", "audit", "audit_extras")}})
    view = {
        "title": f"Membership audit of a classifier: {document['model']}",
        "subtitle": f"against {document['data']}",
        "results": results,
        "document": document,
        "verdict": document["audit_extras"]["verdicts"][0],
        "topics": _topics(document, tested(results)),
        "pictures": pictures({"forest": forest_chart(results), "roc": roc_chart(results)}),
    }
    return render("outside.html", view)


def _topics(document: Mapping[str, Any], tested: dict[str, str]) -> dict[str, str]:
    """Return what was done, by topic: as for a site, but for what only a site's pipeline has."""
    first, references = document["audit"][0], document["study"]["audit"]["direct_references"]
    topics = {topic: text for topic, text in tested.items() if topic != "Adversary: owner"}
    topics["Images"] = (
        f"{first['members']:,} members and {first['nonmembers']:,} non-members; "
        f"{first['duplicates']:,} exact duplicates between the two were taken out."
    )
    if references:
        topics |= {"Reference models": DIRECT.format(references), "Positive control": CONTROL}
    return topics
