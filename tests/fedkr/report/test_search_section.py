"""The page's search: which candidates a site scored, what it chose, and what the chosen set teaches."""

import re

import pytest

from fedkr.report import check_results
from fedkr.report.search_section import checkpoints, search_section, settings, site_search_chart
from fedkr.report.style import MANY_LINES

TRIED = {
    "checkpoints": [{"step": 20, "score": 0.7, "loss": 0.9}, {"step": 10, "score": 0.7, "loss": 0.8}],
    "tuning": [
        {"knobs": {"steps": 9, "guidance": 1.0}, "score": 0.7, "loss": 0.8},
        {"knobs": {"steps": 9, "guidance": 1.5}, "score": 0.75, "loss": 0.6},
        {"knobs": {"steps": 9, "guidance": 1.5}, "score": 0.75, "loss": 0.6},
        {"knobs": {"steps": 9, "guidance": 1.5, "filter": 0.5}, "score": None, "loss": None},
    ],
}


@pytest.fixture
def searched(results):
    """The run with everything that a site tells of its search."""
    site = {
        **TRIED,
        "teacher": {"val_accuracy": 0.9},
        "images": 40,
        "left_out": ["plain"],
        "recalls": [0.92, None, None],
    }
    return results | {"recycling": {"site-0": site}}


def section_of(results):
    return search_section(results, {})


def lines(html):
    """Return every table line's cells as text."""
    rows = re.findall(r"<tr.*?</tr>", html)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


def test_equal_checkpoints_are_told_apart_by_their_loss_and_shown_by_step():
    assert [(c.step, c.chosen) for c in checkpoints(TRIED)] == [(10, True), (20, False)]


def test_what_the_site_says_that_it_chose_counts_before_the_best_score():
    tried = TRIED | {"checkpoint": 20, "knobs": {"steps": 9, "guidance": 1.0}}
    assert [c.step for c in checkpoints(tried) if c.chosen] == [20]
    assert [c.name for c in settings(tried) if c.chosen] == ["steps 9, guidance 1"]


def test_a_setting_that_met_the_next_ones_stands_once_and_one_without_a_score_is_never_chosen():
    assert [(c.name, c.chosen) for c in settings(TRIED)] == [
        ("steps 9, guidance 1", False),
        ("steps 9, guidance 1.5", True),
        ("steps 9, guidance 1.5, filter 0.5", False),
    ]


def test_every_candidate_is_a_line_and_the_chosen_ones_are_marked(searched):
    assert check_results(searched) is searched
    rows = lines(section_of(searched).split("Every candidate")[1].split("</details>")[0])
    assert rows[1:] == [
        ["site-0", "step 10", "chosen", "70.0 %", "0.800"],
        ["site-0", "step 20", "", "70.0 %", "0.900"],
        ["site-0", "steps 9, guidance 1", "", "70.0 %", "0.800"],
        ["site-0", "steps 9, guidance 1.5", "chosen", "75.0 %", "0.600"],
        ["site-0", "steps 9, guidance 1.5, filter 0.5", "", "-", "-"],
    ]


def test_the_choice_names_the_classes_that_the_generator_did_not_see(searched):
    rows = lines(section_of(searched).split("Every candidate")[0])
    assert rows[1] == ["site-0", "steps 9, guidance 1.5", "plain", "step 10", "70.0 %", "75.0 %", "90.0 %"]


def test_recalls_stand_by_class_with_left_out_ones_named(searched):
    section = section_of(searched)
    assert lines(section.split("by class")[1])[1] == ["site-0", "92 %", "-", "left out"]
    del searched["recycling"]["site-0"]["recalls"]
    assert "by class" not in section_of(searched)


def test_scores_by_auc_are_no_percentages_and_halving_is_told(searched):
    searched["study"] = searched["study"] | {"recycle": {"metric": "auc", "search_rungs": 2}}
    assert ["site-0", "step 10", "chosen", "0.700", "0.800"] in lines(section_of(searched))
    (ax,) = site_search_chart(searched).axes
    assert ax.get_ylabel() == "AUC on val"


def test_a_site_of_one_class_that_searched_nothing_has_a_line_of_dashes_and_no_figure(results):
    results["recycling"] = {"site-0": {"checkpoints": [], "tuning": [], "recalls": [], "left_out": []}}
    section = section_of(results)
    assert lines(section)[1] == ["site-0", "-", "none", "-", "-", "-", "-"]
    assert "Every candidate" not in section
    assert site_search_chart(results) is None


def test_each_site_has_a_panel_with_a_curve_and_rings_around_what_it_chose(searched):
    searched["recycling"] |= {f"site-{i}": TRIED for i in range(1, 5)}
    panels = [ax for ax in site_search_chart(searched).axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in panels] == [f"site-{i}" for i in range(5)]
    curve, *_ = panels[0].lines
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([10, 20], [0.7, 0.7])
    rings = [tuple(ring.get_offsets()[0]) for ring in panels[0].collections]
    assert rings[0] == (10, 0.7)
    assert rings[1][0] > 20 and rings[1][1] == 0.75


def test_many_sites_share_one_panel(searched):
    searched["recycling"] = {f"site-{i}": TRIED for i in range(MANY_LINES + 1)}
    (ax,) = site_search_chart(searched).axes
    assert len(ax.lines) == MANY_LINES + 1
