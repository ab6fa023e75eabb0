"""The page that a reader opens after a run: one self-contained HTML file, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from matplotlib.figure import Figure

from fedkr.report.conclusions import accuracy_verdict, audit_verdict, most_exposed, uncertainty
from fedkr.report.pages.audit import audit_view
from fedkr.report.pages.frame import pictures, render
from fedkr.report.plots import draw_figures
from fedkr.report.results import Results, SiteScores
from fedkr.report.samples import SiteSamples
from fedkr.report.search import search_metric, site_searches
from fedkr.report.selection import own_tests, site_totals, strategy_by_name
from fedkr.report.wording import duration, percent, plural


def render_report(
    results: Results, samples: Mapping[str, SiteSamples] | None, figures: Mapping[str, Figure] | None = None
) -> str:
    """Return the whole page.

    Args:
        results: what :func:`fedkr.report.results.check_results` accepts, free of NaN.
        samples: a few images of each site by its name, or None where there are none to show.
        figures: what :func:`fedkr.report.plots.draw_figures` returned; drawn here if not given.
    """
    samples = samples or {}
    figures = draw_figures(results, samples) if figures is None else figures
    return render("report.html", _view(results, samples) | {"pictures": pictures(figures)})


def _view(results: Results, samples: Mapping[str, SiteSamples]) -> dict[str, Any]:
    tested_strategies, at_sites = own_tests(results)
    searches = site_searches(results)
    data = results.get("study", {}).get("data") or {}
    return audit_view(results) | {
        "title": f"Federated Knowledge Recycling on {data.get('name', 'a data set')}",
        "subtitle": _subtitle(results),
        "accuracy_verdict": accuracy_verdict(results),
        "audit_verdict": audit_verdict(results),
        "uncertainty": uncertainty(results),
        "student": strategy_by_name(results, "fedkr"),
        "oracle": strategy_by_name(results, "centralised"),
        "exposed": most_exposed(results),
        "tested_strategies": tested_strategies,
        "own_tests": at_sites,
        "images": sum(sum(site_totals(site)) for site in results.get("sites", [])),
        "shared": _bytes_sent(results, samples),
        "sampled": list(samples),
        "private": any(few.real is not None for few in samples.values()),
        "site_costs": _site_costs(results),
        "searches": searches,
        "candidates": sum(len(search.checkpoints) + len(search.settings) for search in searches.values()),
        "metric": search_metric(results),
        "recalls": _recalls(results),
    }


def _subtitle(results: Results) -> str:
    parts = []
    if sites := results.get("sites"):
        parts.append(plural(len(sites), "site"))
    if partition := results.get("study", {}).get("partition"):
        kind = str(partition.get("kind", ""))
        parts.append(f"Dirichlet alpha {partition.get('alpha')}" if kind == "dirichlet" else f"{kind} partition")
    if classes := results.get("classes"):
        parts.append(f"{len(classes)} classes")
    if "seed" in results:
        parts.append(f"seed {results['seed']}")
    if results.get("seconds") is not None:
        parts.append(f"finished in {duration(results['seconds'])}")
    return " · ".join(parts)


def _bytes_sent(results: Results, samples: Mapping[str, SiteSamples]) -> dict[str, float | None]:
    """Return what each site that shared something sent in bytes."""
    student = strategy_by_name(results, "fedkr")
    sent = {score["site"]: score.get("bytes_up") for score in (student.get("per_site", []) if student else [])}
    return {site: sent.get(site) for site in [*results.get("recycling", {}), *samples]}


def _site_costs(results: Results) -> list[tuple[str, SiteScores]]:
    return [
        (strategy["name"], score)
        for strategy in results["strategies"]
        for score in strategy.get("per_site", [])
        if any(value is not None for value in (score.get("bytes_up"), score.get("bytes_down"), score.get("seconds")))
    ]


def _recalls(results: Results) -> dict[str, list[str]]:
    """Return, by site, how much of each class the chosen set teaches."""
    classes, found = results.get("classes", []), {}
    for site, tried in results.get("recycling", {}).items():
        if recalls := tried.get("recalls"):
            out = tried.get("left_out", [])
            known = zip_longest(classes, recalls[: len(classes)])
            found[site] = ["left out" if name in out else percent(recall, 0) for name, recall in known]
    return found
