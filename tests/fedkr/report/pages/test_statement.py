"""The privacy statement: it says what left, what was found and what was not tested, and never more."""

import re

import pytest

from fedkr.report.pages.report import render_statement
from fedkr.report.statement import conclusion, findings, left_the_sites


def judged(results, **verdicts):
    """Give each named target its verdict at both sites and over all."""
    rows = [
        {"target": target, "site": site, "verdict": verdict, "reason": "made up"}
        for target, verdict in verdicts.items()
        for site in ("site-0", "site-1", "all sites")
    ]
    results["audit_extras"] = {"verdicts": rows}
    return results


def test_what_cannot_be_told_is_no_pass(results):
    text = conclusion(judged(results, student="cannot tell", fedavg="leakage found", teacher="leakage found"))
    assert text == (
        "Leakage of membership was found, at a site or over all together, in: FedAvg model. "
        "The audit cannot tell, which is no pass, for: FedKR student."
    )


def test_a_target_passes_only_where_every_site_and_all_together_pass(results):
    judged(results, student="no leakage found", fedavg="no leakage found")
    assert "could have found it in: FedKR student and FedAvg model" in conclusion(results)
    results["audit_extras"]["verdicts"][0]["verdict"] = "leakage found"
    results["audit_extras"]["verdicts"][3]["verdict"] = "cannot tell"
    text = conclusion(results)
    assert "over all together, in: FedKR student" in text
    assert "no pass, for: FedAvg model" in text


def test_images_that_an_own_contestant_asked_for_left_the_sites_as_well(results):
    results["recycling"], results["releases"] = {}, {"site-0": ["a"], "site-1": ["b"]}
    assert left_the_sites(results)[0].startswith(
        "Synthetic images with soft labels: from 2 sites, in numbers that were not recorded. They cannot be called back"
    )
    results["recycling"] = {"site-0": {"images": 40}}
    first = left_the_sites(results)[0]
    assert "40 from each of 1 site, 40 in all; from 1 site, in numbers" in first
    results["releases"] = {"site-0": ["a"]}
    assert "numbers that were not" not in left_the_sites(results)[0]


def test_what_never_leaves_a_site_is_in_no_conclusion(results):
    assert "teacher" not in conclusion(judged(results, student="cannot tell", teacher="leakage found"))


def test_without_an_audit_there_is_no_evidence(results):
    results["audit"] = []
    assert conclusion(results).startswith("Nothing was attacked")
    assert "What the attacks found" not in render_statement(results)


def test_each_line_has_the_figure_over_all_sites_and_that_of_the_most_exposed(results):
    student = next(line for line in findings(results) if line.target == "student")
    assert student.shown["site"] == "all sites" and student.worst["site"] in ("site-0", "site-1")
    assert student.adversary == "outsider" and sum(student.sites.values()) == 2


def test_it_says_what_intervals_resample_and_what_was_found_of_patients(full_results):
    page = re.sub(r"\s+", " ", render_statement(full_results))
    assert "brackets hold 95 % intervals, by image: images are resampled." in page and "<em>patient</em>" not in page
    row = next(row for row in full_results["audit"] if row["target"] == "student" and row["attack"] == "rmia")
    full_results["audit_extras"]["patients"] = [
        row | {"references": "pipeline", "site": site, "auc": auc, "auc_low": 0.5, "auc_high": 0.7, "unit": "patient"}
        for site, auc in (("site-0", 0.66), ("all sites", 0.61))
    ]
    page = re.sub(r"\s+", " ", render_statement(full_results))
    assert "95 % intervals by patient): FedKR student 0.610 [0.50, 0.70]." in page
    assert "whether a patient, rather than an image" not in page


def test_it_lists_what_left_the_sites(results):
    assert left_the_sites(results) == [
        "Synthetic images with soft labels: 40 from each of 1 site, 40 in all. They cannot be called back: whoever "
        "holds them can attack them at any later time.",
        "Model weights, round by round, for FedAvg.",
        "Figures of models on the sites' own images, and the attacks' rates, each as the site's policy has it.",
        "Images per class and split: told by 2 of 2 sites.",
        "In this simulation alone, all private images in one place, as a reference.",
        "No differential privacy: no proof bounds what attacks other than those below could learn.",
    ]


def test_it_says_what_is_proven_of_releases_with_a_guarantee_and_what_is_not(results):
    for site in results["recycling"].values():
        site["privacy"] = {"epsilon": 8.0, "delta": 1e-5, "unit": "patient", "mechanism": "gaussian"}
    proven, outside, noise = left_the_sites(results)[-3:]
    assert "(8, 1e-05) for one patient more or less in its training split (gaussian mechanism)" in proven
    assert "whether a request succeeds" in outside and "takes the training split as given" in outside
    assert outside.startswith("Not in that guarantee: figures, counts") and "a simulation's comes from" in noise
    results["recycling"]["other"] = {"images": 4}
    assert left_the_sites(results)[-1].startswith("No differential privacy"), "one site without is no guarantee"


def test_it_says_what_is_proven_of_weights_and_that_it_is_of_nothing_else(results):
    row = next(row for row in results["strategies"] if row["name"] == "fedavg")
    row["tuning"] = {"epsilon": 4.0, "delta": 1e-5}
    weights, rest = left_the_sites(results)[-2:]
    assert "all that each site sent for FedAvg is (4, 1e-05) for one image" in weights
    assert rest.startswith("No differential privacy of anything else: no proof")


@pytest.mark.parametrize(
    "said", ["it does not say that the outputs", "28/2024", "whether a patient", "Holm", "canaries"]
)
def test_it_says_what_it_is_and_what_was_not_tested(results, said):
    assert said in re.sub(r"\s+", " ", render_statement(results))


def test_what_a_contestant_sent_that_was_left_out_is_not_passed_over(results):
    results["study"]["strategy"] = {"compare": ["local", "fedavg", "fedprox", "fedkr"]}
    assert any(line.startswith("What FedProx had sent") for line in left_the_sites(results))


def test_names_from_data_are_escaped(results):
    results["study"]["data"]["name"] = "<script>alert(1)</script>"
    assert "<script>" not in render_statement(results)
