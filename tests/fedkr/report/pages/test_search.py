"""The page's search: which candidates a site scored, what it chose, and what the chosen set teaches."""

import re

from fedkr.report.pages.report import render_report
from fedkr.report.plots.search import site_leakage_chart
from fedkr.report.results import check_results


def section_of(results):
    return render_report(results, None, figures={}).split('id="recycling"')[1].split("</section>")[0]


def lines(html):
    """Return every table line's cells as text."""
    rows = re.findall(r"<tr.*?</tr>", html)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


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


def test_how_good_a_release_is_stands_beside_what_real_images_teach(searched):
    quality = {"frechet": 1.62, "precision": 0.9, "recall": 0.45, "recognised": [0.93, None, 0.4]}
    searched["recycling"]["site-0"]["quality"] = quality | {"real": {"score": 0.9, "less": 0.15, "clear": 1}}
    assert check_results(searched) is searched
    cells = lines(section_of(searched).split("How good the releases are")[1])[1]
    least = f"{searched['classes'][2]}, 40 %"
    assert cells == ["site-0", "1.6", "90 %", "45 %", least, "75.0 %, 90.0 %", "clearly less"]
    few = {"precision": 0.9, "recall": 0.45, "recognised": [None, None, None]}
    searched["recycling"]["site-0"]["quality"] = few
    assert lines(section_of(searched).split("How good the releases are")[1])[1][1:] == [
        "-",
        "90 %",
        "45 %",
        "-",
        "-",
        "-",
    ]
    del searched["recycling"]["site-0"]["quality"]
    assert "How good the releases are" not in section_of(searched)


def test_scores_by_auc_are_no_percentages_and_halving_is_told(searched):
    searched["study"] = searched["study"] | {"recycle": {"metric": "auc", "search_rungs": 2}}
    assert ["site-0", "step 10", "chosen", "0.700", "0.800"] in lines(section_of(searched))


def test_what_candidates_give_away_has_a_column_where_it_counts(searched):
    searched["study"] = searched["study"] | {"recycle": {"leakage_weight": 0.5}}
    searched["recycling"]["site-0"]["checkpoints"][1]["leakage"] = 0.612
    assert check_results(searched) is searched
    section = section_of(searched)
    assert ["site-0", "step 10", "chosen", "70.0 %", "0.800", "0.612"] in lines(section)
    assert "AUC of train against val" in section
    figures = {"site_leakage": site_leakage_chart(searched)}
    pictured = render_report(searched, None, figures=figures).split('id="recycling"')[1].split("</section>")[0]
    assert "less 0.5 times the AUC above 0.5" in pictured


def test_a_site_of_one_class_that_searched_nothing_has_a_line_of_dashes_and_no_figure(results):
    results["recycling"] = {"site-0": {"checkpoints": [], "tuning": [], "recalls": [], "left_out": []}}
    section = section_of(results)
    assert lines(section)[1] == ["site-0", "-", "none", "-", "-", "-", "-"]
    assert "Every candidate" not in section


def test_how_each_was_tuned_is_told_with_what_ended_its_schedule(searched):
    tuning = {"lr": 0.1, "local_epochs": 5, "norm": "batch", "round": 200, "rounds": 200, "looks": 0, "by_val": False}
    searched["strategies"][0]["tuning"] = tuning | {"capped": True, "steps": 1000.0, "allotted": 1800}
    assert check_results(searched) is searched
    page = render_report(searched, None, figures={})
    found = next(row for row in lines(page) if "lr 0.1, 5 local epochs, batch norm" in row)
    # What val did not choose may have had images enough: the study may keep the last round.
    assert found[3] == "round 200 of 200, the most that the study allows, before its steps are taken"
    assert found[4:8] == ["0", "no", "1000", "1,800"]
