"""The search's figures."""

from fedkr.report.plots.search import site_leakage_chart, site_search_chart, weights_search_chart
from fedkr.report.plots.style import MANY_LINES


def test_each_site_has_a_panel_with_a_curve_and_rings_around_what_it_chose(searched, tried):
    searched["recycling"] |= {f"site-{i}": tried for i in range(1, 5)}
    panels = [ax for ax in site_search_chart(searched).axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in panels] == [f"site-{i}" for i in range(5)]
    curve, *_ = panels[0].lines
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([10, 20], [0.7, 0.7])
    rings = [tuple(ring.get_offsets()[0]) for ring in panels[0].collections]
    assert rings[0] == (10, 0.7)
    assert rings[1][0] > 20 and rings[1][1] == 0.75


def test_many_sites_share_one_panel(searched, tried):
    searched["recycling"] = {f"site-{i}": tried for i in range(MANY_LINES + 1)}
    (ax,) = site_search_chart(searched).axes
    assert len(ax.lines) == MANY_LINES + 1


def test_the_axis_says_what_the_scores_are(searched):
    searched["study"] = searched["study"] | {"recycle": {"metric": "auc"}}
    (ax,) = site_search_chart(searched).axes
    assert ax.get_ylabel() == "AUC on val"


def test_a_site_that_searched_nothing_has_no_figure(results):
    results["recycling"] = {"site-0": {"checkpoints": [], "tuning": [], "recalls": [], "left_out": []}}
    assert site_search_chart(results) is None


def weighed(tried):
    for place, row in enumerate([*tried["checkpoints"], *tried["tuning"]]):
        row["leakage"] = 0.5 + place / 50
    return tried


def test_scores_stand_against_what_is_given_away_with_the_front_and_rings(searched, tried):
    assert site_leakage_chart(searched) is None
    searched["recycling"] |= {f"site-{i}": weighed(tried) for i in range(2)}
    panels = [ax for ax in site_leakage_chart(searched).axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in panels] == ["site-0", "site-1"]
    front, *points = panels[0].lines
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([0.5, 0.56], [0.7, 0.75])
    rings = {tuple(ring.get_offsets()[0]) for ring in panels[0].collections}
    assert rings == {(0.52, 0.7), (0.56, 0.75)} and len(points) == 4
    assert panels[0].get_xlabel() == "AUC of train against val"


def test_many_sites_have_a_front_each_in_one_panel(searched, tried):
    searched["recycling"] = {f"site-{i}": weighed(tried) for i in range(MANY_LINES + 1)}
    (ax,) = site_leakage_chart(searched).axes
    assert len(ax.lines) == MANY_LINES + 1


def test_a_ring_marks_the_round_whose_model_was_kept_though_another_was_better(results):
    results["weights_search"] += [
        {"strategy": "fedavg", "lr": 0.3, "local_epochs": 2, "round": r, "val_accuracy": 0.9} for r in (0, 1, 2)
    ]
    fedavg = next(row for row in results["strategies"] if row["name"] == "fedavg")
    fedavg["tuning"] = {"lr": 0.1, "local_epochs": 2, "round": 2}
    (ax,) = weights_search_chart(results).axes
    assert [tuple(ring.get_offsets()[0]) for ring in ax.collections] == [(2, 0.2)]
