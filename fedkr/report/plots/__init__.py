"""The report's figures: each takes the results and returns a matplotlib figure, or None with nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from fedkr.report.plots.audit import forest_chart, plane_chart, roc_chart
from fedkr.report.plots.comparison import accuracy_chart, cost_chart
from fedkr.report.plots.images import class_histogram, sample_grid
from fedkr.report.plots.search import site_leakage_chart, site_search_chart, weights_search_chart
from fedkr.report.results import Results
from fedkr.report.samples import SiteSamples


def draw_figures(results: Results, samples: Mapping[str, SiteSamples]) -> dict[str, Figure]:
    """Return every figure that there is something to draw for, by name; ``samples-<site>`` for the sites' images."""
    figures = {
        "accuracy": accuracy_chart(results),
        "classes": class_histogram(results),
        "forest": forest_chart(results),
        "plane": plane_chart(results),
        "roc": roc_chart(results),
        "cost": cost_chart(results),
        "site_search": site_search_chart(results),
        "site_leakage": site_leakage_chart(results),
        "weights_search": weights_search_chart(results),
    }
    figures |= {f"samples-{site}": sample_grid(few) for site, few in samples.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}
