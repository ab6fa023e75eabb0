"""The page that a reader opens."""

import json
import re

import pytest

from fedkr.config import FactsConfig, Study, by_rule
from fedkr.errors import UserError
from fedkr.report.pages.report import render_report
from fedkr.report.results import check_results


@pytest.fixture
def page(results, samples):
    return render_report(results, samples, figures={})


def test_whole_page_embeds_its_figures_and_asks_the_network_for_nothing(results, samples):
    page = render_report(results, samples)
    assert page.count("data:image/svg+xml;base64") == 8
    assert page.count("data:image/png;base64") == 2
    assert not re.search(r"https?://|//cdn|@import|<link|src=\"(?!data:)|url\(", page)


def test_page_names_every_strategy_and_site(page):
    for text in ("Local only", "FedAvg", "FedKR", "Centralised", "site-0", "site-1", "98.0 %", "abc123"):
        assert text in page


def test_names_from_data_are_escaped(page):
    assert "<script>alert" not in page
    assert "cost $5 &amp; $6" in page


def test_a_tpr_that_cannot_be_resolved_is_said_so(page):
    assert "not resolvable" in page
    assert "3.0 % [0.0, 7.0]" in page


def test_nothing_unfinished_shows(page):
    assert "None" not in re.sub(r'src="[^"]*"', "", page)
    assert "nan" not in re.sub(r'src="[^"]*"', "", page)


def test_missing_sites_and_notes_are_shown_at_the_top(results):
    results |= {"missing_sites": ["site-9"], "notes": ["checksum <differs>"]}
    page = render_report(results, None, figures={})
    assert "site-9" in page
    assert "checksum &lt;differs&gt;" in page


def test_the_setup_says_of_what_the_schedule_was_made(results):
    study = Study(facts=FactsConfig(1500, 28, 3, 8), budget="quick")
    study.student.steps = 77
    page = render_report(results | {"study": json.loads(study.to_json())}, None, figures={})
    assert "by rule from 500 colour images a site of 28x28 in 8 classes, budget quick" not in page
    study.recycle.search_steps = by_rule(study)["recycle.search_steps"]
    page = render_report(results | {"study": json.loads(study.to_json())}, None, figures={})
    assert "by rule from 500 colour images a site of 28x28 in 8 classes, budget quick: recycle.search_steps=70" in page
    assert "; set: generator.steps=700, teacher.steps=500, student.steps=77" in page


def test_sections_without_material_are_left_out_with_their_links():
    page = render_report({"strategies": [{"name": "local"}]}, None)
    for name in ("sites", "shared", "recycling"):
        assert f'id="{name}"' not in page
        assert f'href="#{name}"' not in page


def test_a_deployment_says_why_it_has_no_centralised_model(results):
    results["backend"] = "deploy"
    results["strategies"] = [s for s in results["strategies"] if s["name"] != "centralised"]
    assert "no place holds all images" in render_report(results, None, figures={})


def test_page_with_private_images_asks_not_to_be_passed_on(results, samples):
    assert "not to be passed on" in render_report(results, samples, figures={})
    assert "not to be passed on" not in render_report(results, {"site-1": samples["site-1"]}, figures={})


def test_who_chose_whose_images_is_a_table_and_what_a_policy_keeps_is_a_dash(results):
    told = {"how": "cross-validation", "judged": 80, "own": 0.625, "candidates": []}
    told["candidates"] = [{"site": "site-1", "alone": 0.75, "chosen": 1}, {"site": "<b>", "alone": 0.5, "chosen": 0}]
    results["choices"] = {"fedkr-dda": {"site-0": told, "site-1": {"how": "val"}}}
    page = re.sub(r"<[^>]*>", "|", render_report(results, None, figures={}))
    assert "Whose images each site chose: FedKR-DDA" in page
    assert re.search(r"site-0\|+cross-validation\|+62\.5 %\|+75\.0 %, chosen\|+50\.0 %\|", page)
    assert re.search(r"site-1\|+val\|+-\|+-\|+-\|", page)
    assert "&lt;b&gt;" in page


def test_what_has_to_be_known_of_the_data_stands_where_the_figures_stand(results):
    leaks = {"images": 2, "patients": None}
    results["data"] = {"warnings": ["of 360 test images 2 equal an image of the pool <b>"], "leaks": leaks}
    page = render_report(results, None, figures={})
    for section in ("result", "comparison"):
        text = page.split(f'<section id="{section}">')[1].split("</section>")[0]
        assert "of 360 test images 2 equal an image of the pool &lt;b&gt;" in text
    assert "trained or selected on" not in page.split('<section id="comparison">')[1].split("</section>")[0]


def test_intervals_differences_and_recalls_stand_in_the_comparison(results):
    fedavg = next(row for row in results["strategies"] if row["name"] == "fedavg")
    fedavg |= {"accuracy_low": 0.941, "accuracy_high": 0.977, "confusion": [30, 10, 0, 0, 20, 0, 0, 0, 0]}
    limits = {"difference": 0.02, "difference_low": 0.004, "difference_high": 0.036, "unit": "patient"}
    results["differences"] = [
        {"strategy": "fedkr", "other": "fedavg", "figure": "accuracy", **limits},
        {"strategy": "fedkr", "other": "fedavg", "figure": "auc", **limits, "difference_low": -0.004},
    ]
    page = render_report(check_results(results), None, figures={})
    assert "96.0 % [94.1, 97.7]" in page
    assert "<b>+2.0 [0.4, 3.6]</b>" in page and "+0.0200 [-0.0040, 0.0360]" in page
    assert "<b>+0.0200" not in page and "from patients drawn again" in page
    recalls = page[page.index("Recall of each class") :].partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>", "|", row).split("|") for row in recalls.split("<tr")[2:5]]
    assert [[cell for cell in row if cell.strip()][-1] for row in rows] == ["75.0 %", "100.0 %", "-"]


@pytest.mark.parametrize("confusion", [[1] * 8, [1, -1, -1, 1], [1] * 4, []])
def test_a_confusion_that_is_not_of_the_studys_classes_is_refused(results, confusion):
    results["strategies"][1]["confusion"] = confusion
    with pytest.raises(UserError, match=r"results\.strategies\[1\]\.confusion: expected a count for each pair"):
        check_results(results)
