"""The report's sentences."""

import pytest

from fedkr.report.conclusions import (
    accuracy_verdict,
    audit_verdict,
    most_exposed,
    scored_on,
    uncertainty,
    wilson_half_width,
)
from fedkr.report.statement import conclusion, copy_check
from fedkr.report.wording import duration, points_interval, size, strategy_meaning, tpr_interval


def test_verdict_sets_the_student_against_every_other_strategy(results):
    text = accuracy_verdict(results)
    assert "98.0 % accuracy" in text
    assert "19.0 points above the mean of the sites' own models" in text
    assert "2.0 points above FedAvg" in text
    assert "0.5 points below training on all images in one place" in text


def test_verdict_without_a_student_names_the_best(results):
    results["strategies"] = results["strategies"][:2]
    assert "FedAvg has the highest accuracy" in accuracy_verdict(results)


def test_audit_verdict_never_takes_chance_for_proof(results):
    text = audit_verdict(results)
    assert "cannot tell at site-0 and site-1" in text
    assert "teachers, which never leave their sites, are detected at 2 of 2" in text


def test_audit_verdict_names_the_sites_above_chance(results):
    for row in results["audit"]:
        if row["target"] == "student" and row["site"] == "site-1":
            row.update(auc=0.7, auc_low=0.6, auc_high=0.8)
    text = audit_verdict(results)
    assert "leakage found at site-1 (AUC 0.700 [0.600, 0.800] by modified-entropy, p = " in text
    assert "without reference models, a holdout that happens to be harder looks the same" in text
    assert "cannot tell at site-0" in text


def test_audit_verdict_says_when_the_attack_has_no_power(results):
    for row in results["audit"]:
        row.update(auc=0.5, auc_low=0.45, auc_high=0.55)
    assert "little power here" in audit_verdict(results)


def test_audit_verdict_of_a_full_audit_names_attack_and_references(full_results):
    text = audit_verdict(full_results)
    assert "(RMIA, pipeline references)" in text
    assert "no leakage found at site-0 and site-2" in text
    assert "cannot tell at site-1" in text


def test_copies_are_told_beside_the_attacks_and_in_the_statement(full_results):
    copies = full_results["audit_extras"]["copies"]
    assert "copy check" not in audit_verdict(full_results)
    none = (
        "A copy check compared 4,800 released images with the sites' members. It finds near-copies of members at none"
    )
    assert copy_check(full_results).startswith(none)
    copies[1] |= {"flagged": 1, "suspects": 22, "members_found": 13}
    found = (
        "The copy check finds near-copies of members in the release of site-1 "
        "(22 of 1,600 images, near 13 of 400 members)."
    )
    assert found in audit_verdict(full_results) and found in conclusion(full_results)
    assert copy_check(full_results).endswith(found)
    full_results["audit_extras"]["copies"] = 6 * [copies[1]]
    assert "in the releases of 6 sites." in audit_verdict(full_results)
    del full_results["audit_extras"]["copies"]
    assert copy_check(full_results) == ""


def test_audit_verdict_does_not_hide_what_the_released_images_tell(full_results):
    rows = [row for row in full_results["audit"] if row["target"] == "release" and row["headline"]]
    known = [row for row in full_results["audit_extras"]["verdicts"] if row["target"] == "release"]
    assert {row["attack"] for row in rows} == {"distance-features"} and known
    text = audit_verdict(full_results)
    assert "Against the released images, which the server sees (distance in features): AUC" in text
    assert text.count("By the rule that was set beforehand") == 2


def test_the_most_exposed_of_what_is_shared_is_named(full_results):
    for row in full_results["audit"]:
        if row["target"] == "release" and row["site"] == "site-1":
            row["auc"] = 0.93
    assert most_exposed(full_results) == (0.93, "Released images")


def test_no_audit_is_said_so(results):
    results["audit"] = []
    assert "No audit was run" in audit_verdict(results)
    assert most_exposed(results) is None


def test_without_an_audit_a_guarantee_of_all_releases_is_what_is_known(results):
    results["audit"] = []
    guarantee = {"epsilon": 8.0, "delta": 1e-5, "unit": "image", "mechanism": "gaussian"}
    results["recycling"] = {"site-0": {"images": 9, "privacy": guarantee}, "site-1": {"images": 9}}
    assert "nothing is known" in audit_verdict(results), "one site released without"
    results["recycling"]["site-1"]["privacy"] = guarantee
    assert "no more is known than what is proven of some of it" in audit_verdict(results)


def test_uncertainty_of_the_test_set_is_given_in_points(results):
    assert "360 test images" in uncertainty(results)
    assert wilson_half_width(0.5, 100) == pytest.approx(0.0962, abs=1e-4)


def difference(other, low, high, figure="accuracy"):
    limits = {"difference": (low + high) / 2, "difference_low": low, "difference_high": high}
    return {"strategy": "fedkr", "other": other, "figure": figure, **limits, "unit": "image"}


def test_the_test_images_tell_the_student_from_those_whose_paired_interval_excludes_zero(results):
    results["differences"] = [
        difference("fedavg", 0.01, 0.03),
        difference("fedavg", -0.1, 0.1, "auc"),
        difference("centralised", -0.02, 0.01),
    ]
    text = uncertainty(results)
    assert "from FedAvg (+2.0 [1.0, 3.0] points), not from Centralised" in text and "One seed" in text
    results["differences"] = results["differences"][1:]
    assert "accuracy does not tell the student from Centralised (95 %)" in uncertainty(results)


def test_a_difference_is_signed_and_an_auc_no_percentage():
    assert points_interval(difference("fedavg", -0.03, 0.01)) == "-1.0 [-3.0, 1.0]"
    assert points_interval(difference("fedavg", 0.002, 0.01, "auc")) == "+0.0060 [0.0020, 0.0100]"
    assert points_interval(None) == "-"


def test_numbers_carry_readable_units():
    assert [size(x) for x in (None, 0, 999, 1200, 41_200_000, 3.2e9)] == [
        "-",
        "0",
        "999 B",
        "1.2 kB",
        "41.2 MB",
        "3.2 GB",
    ]
    assert [duration(x) for x in (None, 8.24, 59.99, 250, 7500)] == ["-", "8.2 s", "60.0 s", "4 min 10 s", "2 h 05 min"]


def test_tpr_has_its_interval_or_says_that_it_cannot_be_resolved(results):
    assert tpr_interval(results["audit"][0]) == "3.0 % [0.0, 7.0]"
    assert tpr_interval({"tpr_at_fpr_0.01": None}) == "not resolvable"


def with_leaks(results, **changes):
    leaks = {"images": 0, "near": None, "within": 0.0, "patients": 0, "removed": None, "test_images": 360}
    return {**results, "data": {"warnings": [], "leaks": {**leaks, **changes}}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "None equals an image that a site trained or selected on; no patient is on both sides."),
        (
            {"patients": None},
            "None equals an image that a site trained or selected on; whether a patient is on both sides is not known.",
        ),
        ({"images": 3}, "No patient is on both sides."),
        ({"patients": 2}, "None equals an image that a site trained or selected on."),
        ({"images": 3, "patients": 2}, ""),
        (
            {"images": 3, "patients": 2, "removed": 9},
            "None equals an image that a site trained or selected on; no patient is on both sides.",
        ),
    ],
)
def test_of_the_test_images_nothing_is_said_that_was_not_checked(results, changes, told):
    same = "All strategies are scored on the same test images."
    assert scored_on(with_leaks(results, **changes)) == f"{same} {told}".strip()


def test_of_a_simulation_that_recorded_nothing_nothing_is_said(results):
    assert scored_on(results).endswith("Whether a site trained or selected on equal ones was not recorded.")


@pytest.mark.parametrize("facts", [{}, {"data": {"warnings": [], "leaks": None}}])
def test_where_nobody_could_compare_images_it_is_said_so(results, facts):
    said = scored_on(results | {"backend": "flwr run"} | facts)
    assert said.startswith("Nobody compared the test images with the sites' images")
    assert "no" not in said.split("equal")[1:] and "selected on" not in said


def test_only_what_shares_weights_is_said_to(results):
    assert strategy_meaning("fedprox", results) == "sites share model weights, round by round"
    assert strategy_meaning("mine", results) == "a contestant of this study's own"
    results["targets"] = [{"contestant": "mine", "kind": "weights"}]
    assert strategy_meaning("mine", results) == "sites share model weights, round by round"
