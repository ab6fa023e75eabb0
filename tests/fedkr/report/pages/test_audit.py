"""The page's audit: verdicts, what was tested, and everything that is folded."""

import re

import pytest

from fedkr.report import coverage
from fedkr.report.pages.report import render_report
from fedkr.report.results import check_results, plain


@pytest.fixture
def page(full_results):
    return re.sub(r"<[^>]+>", " ", audit_of(full_results))


def audit_of(results):
    return render_report(results, None, figures={}).split('id="audit"')[1].split("</section>")[0]


def test_all_that_an_audit_measured_is_accepted(full_results):
    assert check_results(plain(full_results))["audit_extras"] == full_results["audit_extras"]


def test_a_verdict_stands_for_every_target_and_site_with_its_adversary_and_reason(full_results):
    section = audit_of(full_results)
    matrix = section.split("<tbody>")[1].split("</tbody>")[0]
    assert matrix.count('class="pill') == 8 * 3
    for text in ("outsider: sees the final model", "server: sees what each site sent", "owner: the site itself"):
        assert text in matrix
    assert "too few images" in section


def test_features_of_a_public_network_are_named_where_they_were_asked_for(full_results):
    assert "efficientnet-lite0" not in audit_of(full_results)
    full_results["study"]["audit"]["features"] = "efficientnet-lite0"
    assert "principal components of what efficientnet-lite0 sees, a public network" in audit_of(full_results)


def test_many_sites_are_counted_instead_of_drawn_side_by_side(full_results):
    rows = [row for row in full_results["audit"] if row["site"] == "site-0"]
    full_results["audit"] = [row | {"site": f"clinic {i}"} for i in range(9) for row in rows]
    del full_results["audit_extras"]["verdicts"]
    section = audit_of(full_results)
    assert "leakage found (sites)" in section
    assert "<th>clinic 8</th>" not in section


def test_verdicts_that_a_run_did_not_write_are_judged_by_the_same_rule(results):
    section = audit_of(results)
    assert "only RMIA with reference models is strong enough to pass student" in section
    assert "no leakage found</span>" not in section


def test_a_rejected_blind_baseline_voids_the_audit_of_its_site(full_results):
    full_results["audit_extras"]["blind"][1].update(p_value=0.0005, rejected=True)
    section = audit_of(full_results)
    assert "site-1: audit void" in section
    assert "1 of 3 sites void" in section
    assert "audit void" not in audit_of(full_results | {"audit_extras": {}})


@pytest.mark.parametrize(
    "text",
    [
        *("Paired differences", "-0.090 [-0.13, -0.05]", "Lower bound on epsilon", "≥ 0.31", "36 of 56"),
        *("there are too few coins", "Canaries", "0.560 [0.48, 0.64]", "Copy check", "7 (0.4 %)", "Blind baseline"),
        *("By class", "0.71", "Every attack", "LiRA (online)", "pipeline", "AOP", "not resolvable"),
        *("Most exposed site", "local report", "site-2 made its references without the other sites"),
    ],
)
def test_everything_that_was_measured_is_on_the_page(page, text):
    assert text in page


def test_page_of_a_full_audit_holds_nothing_unfinished(page):
    assert not re.search(r"\bNone\b|\bnan\b", page)


def test_classes_are_named_and_those_with_too_few_images_left_empty(full_results):
    fold = audit_of(full_results).split("By class")[1]
    assert "cost $5 &amp; $6" in fold
    fedavg = fold.split("FedAvg model")[1].split("</tbody>")[0]
    assert fedavg.count(">0.71<") == fedavg.count(">-<") == 3


def test_what_was_tested_names_attacks_references_images_and_resolution(full_results):
    topics = coverage.tested(full_results)
    assert "RMIA, LiRA (online), loss threshold" in topics["Attacks"]
    assert "16 direct ones a site" in topics["Reference models"]
    assert "Without the other sites' releases at site-2, though the target knew them" in topics["Reference models"]
    assert "220 to 900 members" in topics["Images"]
    assert "1 % at 2 of 3 sites" in topics["Low false-positive rates"]
    assert topics["Coins"].startswith("560 fair coins")


def test_each_attack_on_a_release_is_explained_with_what_calibrates_it(full_results):
    raw = coverage.tested(full_results)["Attacks on what was released"]
    assert "how near the nearest released image is" in raw and raw.endswith("No other release calibrates them.")
    rows = [row for row in full_results["audit"] if row["attack"] == "distance-features"]
    by_others = [{**row, "attack": "calibrated-pixels", "references": "released"} for row in rows]
    fused = [{**row, "attack": "fused", "references": "pipeline"} for row in rows]
    for row in rows:
        row["headline"] = 0
    full_results["audit"] += by_others + fused
    full_results["audit_extras"]["two_sample"] = [{"site": "site-0", "p_value": 0.0123}]
    said = coverage.tested(full_results)["Attacks on what was released"]
    for text in ("than the nearest of other releases", "a classifier trained on the release knows", "two-sample test"):
        assert text in said
    assert said.endswith("Other releases: what the other sites released, as any server has it.")
    page = audit_of(full_results)
    assert "calibrated distance fused with a classifier, pipeline references" in page
    assert "calibrated distance in pixels" in page and "0.01<" in page.split("Two-sample test of the releases")[1]


def test_what_does_not_count_is_told_and_members_are_those_of_what_was_trained_on_the_images(full_results):
    said = coverage.tested(full_results)["Images"]
    assert "another site trains on" not in said and "releases no image of" in said
    for row in full_results["audit"]:
        row |= {"elsewhere": 2, "members": row["members"] - 30} if row["target"] == "student" else {}
    full_results["recycling"] = {}
    said = coverage.tested(full_results)["Images"]
    assert "220 to 900 members" in said and "releases no image of" not in said
    assert "6 that another site trains on do not count for models of all sites." in said


def of_patients(results):
    """Say of a run that two of its sites have patients, who were attacked too."""
    named = {"attack": "rmia", "references": "pipeline", "unit": "patient", "auc": 0.61, "auc_low": 0.52}
    rates = {"auc_high": 0.7, "tpr_at_fpr_0.01": None}
    results["audit_extras"]["patients"] = [
        named | rates | {"target": "student", "site": site, "members": members, "nonmembers": 40}
        for site, members in (("site-0", 90), ("site-1", 120), ("all sites", 210))
    ]
    results["audit_extras"]["patients"].append(results["audit_extras"]["patients"][0] | {"attack": "loss"})
    for row in results["audit"]:
        units = {"site-2": "image", "all sites": "mixed"}
        row["unit"] = units.get(row["site"], "patient")
    return results


def test_patients_are_told_of_by_the_headline_attack_and_no_longer_among_what_was_not_tested(full_results):
    gap = "whether a patient, rather than an image, took part"
    assert gap in coverage.not_tested(full_results) and "Patients" not in coverage.tested(full_results)
    of_patients(full_results)
    assert gap not in coverage.not_tested(full_results)
    assert coverage.tested(full_results)["Patients"].startswith(
        "90 to 120 patients who were trained on and 40 who were held out at each of 2 sites"
    )
    fold = audit_of(full_results).split("<summary>Patients")[1].split("</details>")[0]
    assert fold.count("0.610 [0.52, 0.70]") == 3 and ">patient<" in fold and "loss" not in fold


def test_every_table_with_intervals_says_what_they_resample(full_results):
    assert coverage.tested(full_results)["Intervals"] == "95 %, by image: images are resampled."
    of_patients(full_results)
    assert coverage.tested(full_results)["Intervals"].startswith("95 %, by patient where a site's data name patients")
    page = audit_of(full_results)
    for name, unit in (("As numbers", "patient"), ("Every attack", "mixed"), ("Most exposed site", "image")):
        fold = page.split(f"<summary>{name}")[1].split("</table>")[0]
        assert "intervals by" in fold and f">{unit}<" in fold, name
    for row in full_results["audit_extras"]["paired"]:
        row["unit"] = "patient"
    paired = audit_of(full_results).split("<summary>Paired differences")[1].split("</table>")[0]
    assert "interval by" in paired and ">patient<" in paired


def test_a_run_of_an_older_fedkr_says_nothing_of_units_and_was_not_checked_for_images_of_other_sites(results):
    assert "Intervals" not in coverage.tested(results) and results["backend"] == "inline"
    assert any("another site trains on" in gap for gap in coverage.not_tested(results))
    assert "intervals by image" not in audit_of(results)


@pytest.mark.parametrize("backend", ["deploy", "flwr run", "inline", "ray"])
def test_images_that_no_site_of_a_deployment_can_see_are_among_what_was_not_tested(full_results, backend):
    full_results["backend"] = backend
    gaps = [gap for gap in coverage.not_tested(full_results) if "another site trains on" in gap]
    assert len(gaps) == (backend in ("deploy", "flwr run"))


def test_a_class_that_only_a_teacher_learnt_is_among_what_was_not_tested(full_results):
    def gaps():
        return [gap for gap in coverage.not_tested(full_results) if "its teacher learnt those" in gap]

    full_results["recycling"] = {"site-0": {"left_out": ["plain"], "teacher": {"val_accuracy": 0.9}}}
    assert len(gaps()) == 1
    del full_results["recycling"]["site-0"]["teacher"]
    assert gaps() == [], "with a guarantee no teacher labels anything"


def test_the_rule_names_every_attack_that_bars_a_pass(full_results):
    rule = audit_of(full_results).split("The rule:")[1].split("</p>")[0]
    assert "gain of the rounds" in rule and "outliers by distance in pixels" in rule


def test_what_was_not_tested_follows_from_what_is_missing(results, full_results):
    light, full = (audit_of(run).split("Not tested")[1].split("</ul>")[0] for run in (results, full_results))
    for text in ("with reference models", "canaries", "released images", "make of one site alone", "blind"):
        assert text in light
    for text in ("canaries", "make of one site alone", "blind"):
        assert text not in full
    of_labels = [row for row in full_results["audit_extras"]["canaries"] if row["channel"] == "label"]
    full_results["audit_extras"]["canaries"] = of_labels
    assert "canaries of the image channel" in audit_of(full_results).split("Not tested")[1].split("</ul>")[0]
    assert "poisons" in light
    assert "poisons" in full
