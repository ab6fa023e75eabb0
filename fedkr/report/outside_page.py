"""The page of an outside model's audit: the verdict, what was tested, the figures; one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fedkr.report.audit_details import audit_details, verdict_pill
from fedkr.report.audit_plots import forest_chart, roc_chart
from fedkr.report.coverage import tested
from fedkr.report.elements import bullets, definitions, heading, html_of, notice, page, section, svg_figure
from fedkr.report.results import Results, check_results

TITLE = "Membership audit of a classifier"
CONTROL = (
    "'Site's teacher' below: a classifier of the same architecture that this audit itself overfitted to the members. "
    "An attack that does not detect it proves nothing by finding nothing in the model."
)
DIRECT = "{} direct ones: classifiers trained on random halves of members and non-members together."
NOT_TESTED = (
    "references trained as the model was: architecture and recipe of the reference models are guesses unless they were "
    "given, and a wrong guess makes the attacks weaker",
    "an attacker who poisons what is trained, reconstruction of images, inference of attributes",
    "whether a patient, rather than an image, took part",
    "another seed: reference models and control were drawn once",
)


def render_outside(document: Mapping[str, Any]) -> str:
    """Return the whole page.

    Args:
        document: what ``audit.json`` holds: ``model``, ``kind``, ``data``, ``notes``, ``recipe``, ``study.audit``,
            ``audit`` and ``audit_extras``.

    Raises:
        UserError: rows of another shape.
    """
    results = check_results({"strategies": [], **{key: document[key] for key in ("study", "audit", "audit_extras")}})
    verdict = document["audit_extras"]["verdicts"][0]
    body = [
        section(
            "verdict",
            "Verdict",
            f"<p>{html_of(verdict_pill(verdict['verdict']))} {escape(verdict['reason'])}.</p>",
            notice("Read this with it:", document["notes"]),
        ),
        section(
            "tested",
            "What was tested, and what was not",
            definitions(_topics(document, results)),
            heading("Not tested"),
            bullets(NOT_TESTED),
        ),
        section(
            "figures",
            "Figures",
            svg_figure(forest_chart(results), "AUC of the headline attack with its 95 % interval"),
            svg_figure(roc_chart(results), "ROC curves of the headline attack on log-log axes"),
            audit_details(results),
        ),
        section("setup", "Setup", definitions({"Model": document["kind"], "Reference recipe": document["recipe"]})),
    ]
    footer = f"Made by fedkr {document['fedkr']}. audit.json holds every figure."
    return page(f"{TITLE}: {document['model']}", f"against {document['data']}", "\n".join(body), footer)


def _topics(document: Mapping[str, Any], results: Results) -> dict[str, str]:
    """Return what was done, by topic: as for a site, but for what only a site's pipeline has."""
    first, count = document["audit"][0], document["study"]["audit"]["direct_references"]
    topics = tested(results)
    topics.pop("Adversary: owner", None)
    topics["Images"] = (
        f"{first['members']:,} members and {first['nonmembers']:,} non-members; "
        f"{first['duplicates']:,} exact duplicates between the two were taken out."
    )
    if count:
        topics |= {"Reference models": DIRECT.format(count), "Positive control": CONTROL}
    return topics
