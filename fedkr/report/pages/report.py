"""The pages that a reader opens after a run: the report, section by section, and the privacy statement."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from fedkr.report.pages.frame import pictures, render
from fedkr.report.plots import draw_figures
from fedkr.report.results import Results
from fedkr.report.samples import SiteSamples
from fedkr.report.wording import duration, plural


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
    data = results.get("study", {}).get("data") or {}
    view = {
        "title": f"Federated Knowledge Recycling on {data.get('name', 'a data set')}",
        "subtitle": _subtitle(results),
        "results": results,
        "samples": samples,
        "pictures": pictures(figures),
    }
    return render("report.html", view)


def render_statement(results: Results) -> str:
    """Return the privacy statement: what left the sites, what attacks found in it, and what was not tested."""
    data = results.get("study", {}).get("data") or {}
    title = f"Privacy statement: Federated Knowledge Recycling on {data.get('name', 'a data set')}"
    return render("statement.html", {"title": title, "subtitle": _subtitle(results), "results": results})


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
