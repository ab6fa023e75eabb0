"""The audit's figures."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from fedkr.report.plots.audit import forest_chart, plane_chart, roc_chart
from fedkr.report.plots.style import MANY_LINES, strategy_colour


def titles(figure):
    return [title for ax in figure.axes if (title := ax.get_title(loc="left"))]


def test_roc_shades_what_the_nonmembers_cannot_resolve(results):
    panels = roc_chart(results).axes
    assert [ax.get_title(loc="left") for ax in panels[:3]] == ["FedKR student", "FedAvg model", "Site's teacher"]
    band = panels[0].patches[0].get_extents().transformed(panels[0].transData.inverted())
    assert panels[0].get_xscale() == panels[0].get_yscale() == "log"
    assert band.x1 == pytest.approx(1 / 180)  # all sites' non-members together


def test_roc_has_a_panel_for_every_target_and_an_interval_at_each_fpr_that_can_be_resolved(full_results):
    figure = roc_chart(full_results)
    assert len(titles(figure)) == 8
    student = [row for row in full_results["audit"] if row["target"] == "student" and row["headline"]]
    shown = [row for row in student if row["references"] == "pipeline" and row["tpr_at_fpr_0.01"] is not None]
    bars = [line for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
    assert len(bars) == len(shown) == 3
    for bar, row in zip(bars, shown, strict=True):
        assert max(bar.get_ydata()) == pytest.approx(row["tpr_at_fpr_0.01_high"])


def test_forest_has_an_interval_for_every_target_and_site_and_the_pooled_ones(full_results):
    (ax,) = forest_chart(full_results).axes
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels[:5] == ["FedKR student · pipeline", "site-0", "site-1", "site-2", "all sites"]
    assert labels.count("all sites") == 8
    pooled = next(
        row
        for row in full_results["audit"]
        if (row["target"], row["site"], row.get("references")) == ("student", "all sites", "pipeline")
        and row["headline"]
    )
    spans = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(span, [pooled["auc_low"], pooled["auc_high"]]) for span in spans)


def test_forest_of_many_sites_shows_the_most_exposed_ones_and_all_together(full_results):
    rows = [row for row in full_results["audit"] if row["site"] == "site-0" and row["target"] == "teacher"]
    full_results["audit"] = [
        row | {"site": f"clinic {i}", "auc": 0.5 + i / 100} for i in range(MANY_LINES + 8) for row in rows
    ]
    labels = [tick.get_text() for tick in forest_chart(full_results).axes[0].get_yticklabels()]
    assert labels[1] == f"clinic {MANY_LINES + 7}"
    assert labels[-1] == "all sites"
    assert len(labels) == 2 + MANY_LINES // 2


def test_plane_separates_outsider_and_server_and_sets_accuracy_against_both_figures(full_results):
    figure = plane_chart(full_results)
    assert titles(figure) == ["outsider: sees the final model", "server: sees what each site sent"]
    outsider = {
        to_hex(line.get_markeredgecolor()): line.get_ydata()[0]
        for line in figure.axes[0].lines
        if line.get_linestyle() == "None"
    }
    assert outsider == {
        strategy_colour(s["name"]).lower(): s["accuracy"] for s in full_results["strategies"] if s["accuracy"]
    }


def test_a_tpr_that_no_strategy_can_resolve_leaves_an_empty_panel_that_says_so(results):
    for row in results["audit"]:
        row["tpr_at_fpr_0.01"] = None
    texts = [text.get_text() for text in plane_chart(results).axes[1].texts]
    assert texts == ["not resolvable"]


def test_without_an_audit_there_is_nothing_to_draw(results):
    results["audit"] = []
    assert roc_chart(results) is forest_chart(results) is plane_chart(results) is None
