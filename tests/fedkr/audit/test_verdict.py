"""The rule of the verdict, case by case, and how often it is wrong on simulated audits."""

import numpy as np
import pytest

from fedkr.audit.statistics.membership import membership_figures
from fedkr.audit.verdict import Blind, SiteVerdict, site_verdicts
from fedkr.site_name import ALL_SITES

# A standard error of 0.01, about that of 1,700 members and as many others.
HALF = 0.0196
FINE = {
    "members": 2000,
    "nonmembers": 2000,
    "tpr_at_fpr_0.01": 0.0105,
    "tpr_at_fpr_0.01_low": 0.004,
    "tpr_at_fpr_0.01_high": 0.018,
}


def row(target="student", auc=0.5, attack="rmia", references="pipeline", site="a", **more):
    limits = {"auc": auc, "auc_low": auc - HALF, "auc_high": auc + HALF}
    names = {"target": target, "site": site, "attack": attack, "references": references}
    return {**names, "headline": int(not attack.startswith("lira")), **FINE, **limits, **more}


def both(target="student", auc=0.5, **more):
    """Return the rows of RMIA and of LiRA beside it."""
    return [row(target, auc, **more), row(target, auc, attack="lira-online", **more)]


TEACHER = row("teacher", 0.8, references="direct")


def judge(*rows, control=TEACHER, target="student", canaries=(), patients=(), **blind):
    verdicts = site_verdicts([*rows, *([control] if control else [])], Blind(**blind), canaries, patients=patients)
    return next(verdict for verdict in verdicts if (verdict.site, verdict.target) == ("a", target))


def test_low_upper_limits_pass_where_nothing_stands_out_and_the_control_is_detected():
    verdict = judge(*both())
    assert verdict.verdict == "no leakage found"
    # 0.5 + 2.24 standard errors: the limit is corrected for two attacks.
    assert "end at 0.522" in verdict.reason and "none of 4 claims" in verdict.reason
    assert "control is detected (the site's own teacher, rmia, direct references)" in verdict.reason


def test_an_auc_that_is_significant_among_all_claims_is_leakage():
    verdict = judge(*both(auc=0.55))
    assert verdict.verdict == "leakage found"
    assert "AUC 0.550 [0.530, 0.570]" in verdict.reason and "among all 6 claims" in verdict.reason


def test_lira_of_one_variance_stands_beside_rmia_before_that_of_a_variance_an_image():
    """With 16 references a variance for each image is noise (Carlini et al. 2022)."""
    shared = judge(*both(), row(auc=0.6, attack="lira-online-fixed"))
    assert shared.verdict == "leakage found" and "lira-online-fixed" in shared.reason
    each = judge(row(), row(auc=0.6, attack="lira-online"), row(attack="lira-online-fixed"))
    assert each.verdict == "no leakage found"


def test_what_would_be_significant_alone_is_not_among_the_claims_of_thirty_sites():
    others = [one for number in range(30) for one in both(site=f"s{number}")]
    assert judge(*both(auc=0.527)).verdict == "leakage found"
    verdict = judge(*both(auc=0.527), *others)
    assert verdict.verdict == "cannot tell" and "stands out here" in verdict.reason


def test_an_average_that_hides_a_few_exposed_members_does_not_pass():
    exposed = {"tpr_at_fpr_0.01": 0.04, "tpr_at_fpr_0.01_low": 0.03, "tpr_at_fpr_0.01_high": 0.05}
    verdict = judge(*both(auc=0.515, **exposed))
    assert verdict.verdict == "leakage found"
    assert "TPR at 1.0% FPR 0.040 [0.030, 0.050], 0.010 by guessing" in verdict.reason


def test_too_few_held_out_images_for_any_low_fpr_do_not_pass():
    hidden = {name: None for name in FINE if name.startswith("tpr")}
    verdict = judge(*both(**hidden))
    assert verdict.verdict == "cannot tell" and "2000 held-out images show no TPR" in verdict.reason


def test_a_small_site_never_passes_by_being_small():
    verdict = judge(*both(auc_low=0.3, auc_high=0.7))
    assert verdict.verdict == "cannot tell" and "upper limit, 0.729, is not at 0.55 or below" in verdict.reason


def test_members_that_score_significantly_lower_are_no_pass():
    verdict = judge(*both(auc=0.45))
    assert verdict.verdict == "cannot tell" and "members score lower than non-members" in verdict.reason


@pytest.mark.parametrize(
    ("rows", "control", "words"),
    [
        (both(), row("teacher", 0.505, references="direct"), "does not detect"),
        (both(), None, "not tried on a control"),
        (both(), row("teacher", 0.8, attack="loss", references="none"), "not tried on a control"),
        (both(references="direct"), TEACHER, "pipeline references"),
        ([row(attack="modified-entropy", references="none")], TEACHER, "only RMIA"),
        ([row()], TEACHER, "LiRA beside RMIA"),
        ([row(headline=0)], TEACHER, "no figure"),
    ],
)
def test_an_attack_without_proven_power_cannot_pass_a_model(rows, control, words):
    verdict = judge(*rows, control=control)
    assert verdict.verdict == "cannot tell"
    assert words in verdict.reason


CONTROL = row("control", 0.9, references="direct")
PLANTED = row("control-student", 0.7)


@pytest.mark.parametrize(
    ("target", "controls", "words"),
    [
        ("student", [CONTROL, PLANTED], "the student of a release with planted images, rmia, pipeline references"),
        ("student", [CONTROL], "the classifier that was overfitted to the site's images, rmia, direct references"),
        ("fedavg", [CONTROL, PLANTED], "the classifier that was overfitted to the site's images"),
        ("fedavg", [PLANTED], "the site's own teacher"),
    ],
)
def test_a_pass_names_the_control_of_its_kind(target, controls, words):
    references = "pipeline" if target == "student" else "direct"
    verdict = judge(*both(target, references=references), *controls, target=target)
    assert verdict.verdict == "no leakage found" and f"control is detected ({words}" in verdict.reason


def test_a_control_of_its_kind_that_is_not_found_speaks_against_a_pass_whatever_else_is_found():
    verdict = judge(*both(), CONTROL, row("control-student", 0.505))
    assert verdict.verdict == "cannot tell"
    assert "does not detect the student of a release with planted images either" in verdict.reason


def test_a_control_in_which_nothing_is_found_says_so_of_itself():
    missed = both("control", 0.505, references="direct")
    verdict = judge(*missed, control=None, target="control")
    assert verdict.verdict == "cannot tell"
    assert (
        verdict.reason == "nothing was found in a model that must give its images away: this attack has no power here"
    )


def test_direct_references_pass_what_was_trained_on_real_images():
    def judged(target, **more):
        return judge(*both(target, **more), target=target).verdict

    assert judged("fedavg", references="direct") == "no leakage found"
    assert judged("site-student", references="direct") == "cannot tell"
    assert judged("mine", references="direct", kind="student") == "cannot tell"
    assert judged("mine", kind="student") == "no leakage found"


def test_a_rejected_blind_baseline_voids_even_a_detection():
    verdict = judge(*both(auc=0.9), void=["a"])
    assert verdict.verdict == "cannot tell" and "blind baseline" in verdict.reason


def test_without_a_blind_baseline_nothing_passes_and_a_detection_stands():
    verdict = judge(*both(), untested=["a"])
    assert verdict.verdict == "cannot tell" and "blind baseline" in verdict.reason
    assert judge(*both(auc=0.7), untested=["a"]).verdict == "leakage found"


def released(auc=0.5, **more):
    """Return the rows of a release: the headline, the other calibrated attacks, and one without references."""
    beside = ("calibrated-pixels", "calibrated-features", "soft-label-neighbours")
    rows = [row("release", auc, attack="fused"), *(row("release", attack=name, headline=0, **more) for name in beside)]
    return [*rows, row("release", attack="domias", references="none", headline=0)]


def test_a_release_passes_only_with_the_student_of_its_own_images():
    def judged(*students, auc=0.5, **beside):
        own = released(auc)
        other = {**own.pop(), **beside}
        return judge(*own, other, *students, target="release").verdict

    assert judged() == "cannot tell"
    assert judged(*both("site-student")) == "no leakage found"
    assert judged(*both("site-student", auc=0.7)) == "leakage found"
    assert judged(*both("site-student"), auc=0.7) == "leakage found"
    assert judged(*both("site-student", references="direct")) == "cannot tell"
    # The rate at which another attack finds members says more than its average.
    exposed = {"tpr_at_fpr_0.01": 0.03, "tpr_at_fpr_0.01_low": 0.02}
    assert judged(*both("site-student"), **exposed) == "cannot tell"


def test_a_release_passes_only_against_attacks_that_other_releases_calibrate():
    raw = row("release", attack="distance-features", references="none")
    verdict = judge(raw, *both("site-student"), target="release")
    assert verdict.verdict == "cannot tell" and "that other releases calibrate" in verdict.reason
    by_others = row("release", attack="calibrated-pixels", references="released")
    assert judge(by_others, *both("site-student"), target="release").verdict == "no leakage found"


def test_all_attacks_of_a_release_with_the_headlines_references_are_tried_and_corrected_together():
    verdict = judge(*released(auc=0.515), *both("site-student"), target="release")
    assert "stands out" not in verdict.reason
    exposed = {"tpr_at_fpr_0.01": 0.04, "tpr_at_fpr_0.01_low": 0.03, "tpr_at_fpr_0.01_high": 0.05}
    verdict = judge(*released(**exposed), *both("site-student"), target="release")
    assert verdict.verdict == "leakage found"
    # Two claims of each: four attacks on the release, two on its student, twice, and one on the teacher.
    assert "0.040 [0.030, 0.050]" in verdict.reason and "among all 18 claims" in verdict.reason


def test_a_release_that_lies_closer_to_members_than_to_the_holdout_leaks():
    def judged(p_value, site="a"):
        verdicts = site_verdicts([*released(), *both("site-student"), TEACHER], two_sample=[two_sample(p_value, site)])
        return next(verdict for verdict in verdicts if verdict.target == "release")

    def two_sample(p_value, site):
        return {"site": site, "p_value": p_value}

    assert judged(0.4).verdict == judged(1e-9, site="b").verdict == "no leakage found"
    found = judged(1e-4)
    assert found.verdict == "leakage found" and "closer to members than to held-out images" in found.reason


def test_leakage_by_an_attack_without_references_is_qualified():
    verdict = judge(row(auc=0.6, attack="modified-entropy", references="none"))
    assert verdict.verdict == "leakage found" and "harder" in verdict.reason


def test_planted_canaries_that_are_found_are_leakage_whatever_the_average():
    canary = {**row(auc=0.9, auc_low=0.8), "included": 30, "excluded": 30}
    verdict = judge(*both(), canaries=[canary])
    assert verdict.verdict == "leakage found" and "planted canaries" in verdict.reason
    assert judge(*both(), canaries=[{**canary, "auc": 0.5, "auc_low": 0.35}]).verdict == "no leakage found"


def of_patients(auc, site="a", **more):
    return row(auc=auc, site=site, **{"members": 600, "nonmembers": 600, **more})


def test_patients_who_stand_out_as_a_whole_are_leakage_whatever_their_single_images_say():
    verdict = judge(*both(), patients=[of_patients(0.6)])
    assert verdict.verdict == "leakage found" and "of patients, AUC 0.600" in verdict.reason
    assert judge(*both(), patients=[of_patients(0.6)], void=["a"]).verdict == "cannot tell"
    assert judge(*both(), patients=[of_patients(0.6, target="fedavg"), of_patients(0.5)]).verdict != "leakage found"


def test_patients_are_claims_of_the_headline_attack_alone_and_a_pass_takes_that_they_do_not_stand_out():
    verdict = judge(*both(), patients=[of_patients(0.5), of_patients(0.6, attack="lira-online")])
    assert verdict.verdict == "no leakage found" and "none of 6 claims" in verdict.reason
    # Of six claims of the target at this site alone, though not of all of the audit.
    others = [one for number in range(30) for one in both(site=f"s{number}")]
    verdict = judge(*both(), *others, patients=[of_patients(0.545)])
    assert verdict.verdict == "cannot tell" and "of patients" in verdict.reason


def test_patients_of_all_sites_are_judged_together():
    sites = ["a", "b", "c"]
    rows = [one for site in sites for one in both(site=site)]
    patients = [of_patients(0.53, site=site) for site in sites]
    verdicts = {v.site: v for v in site_verdicts([*rows, TEACHER], patients=patients) if v.target == "student"}
    assert verdicts[ALL_SITES].verdict == "leakage found" and "of patients" in verdicts[ALL_SITES].reason
    assert verdicts["a"].verdict != "leakage found"


@pytest.mark.parametrize("beside", [(), [of_patients(0.5, site="b", attack="lira-online")]])
def test_patients_of_a_single_site_are_no_claim_of_all_sites(beside):
    rows = [*both(), *both(site="b"), TEACHER]
    verdicts = {v.site: v for v in site_verdicts(rows, patients=[of_patients(0.6), *beside]) if v.target == "student"}
    # Two attacks' AUC and TPR at two sites and at both, the teacher's, and the one site's patients once.
    assert verdicts["a"].verdict == "leakage found" and "among all 18 claims" in verdicts["a"].reason
    assert "of patients" not in verdicts[ALL_SITES].reason


def test_canaries_of_each_channel_are_claims_of_their_own():
    label = {**row(auc=0.5, auc_low=0.35), "channel": "label", "included": 30, "excluded": 30}
    image = {**row(auc=0.9, auc_low=0.8), "channel": "image", "included": 30, "excluded": 30}
    verdict = judge(*both(), canaries=[label, image])
    assert verdict.verdict == "leakage found" and "planted canaries of the image channel" in verdict.reason
    assert "among all 8 claims" in verdict.reason
    swapped = [{**label, "channel": "image"}, {**image, "channel": "label"}]
    assert "planted canaries of the label channel" in judge(*both(), canaries=swapped).reason


def test_of_outliers_in_a_release_the_nearest_released_image_is_the_claim():
    of_release = [row("release", attack=name, references="none") for name in ("distance-pixels", "distance-features")]
    of_release[0]["headline"] = 0
    seen = {"auc": 0.95, "auc_low": 0.9, "included": 30, "excluded": 30}
    near, other = ({**each, **seen} for each in of_release)
    found = judge(*of_release, target="release", canaries=[{**near, "channel": "image"}])
    assert found.verdict == "leakage found" and "planted canaries of the image channel" in found.reason
    for unclaimed in ({**other, "channel": "image"}, {**near, "channel": "label"}):
        assert judge(*of_release, target="release", canaries=[unclaimed]).verdict == "cannot tell"


def test_every_target_at_every_site_and_over_all_gets_one_verdict_from_what_was_named_beforehand():
    rows = [
        row(headline=0, auc=0.9, references="direct"),
        *both(),
        TEACHER,
        *both(site="b"),
        row("update", headline=0, site="b"),
        row(site=ALL_SITES),
    ]
    verdicts = {(v.site, v.target): v.verdict for v in site_verdicts(rows)}
    assert verdicts == {
        ("a", "student"): "no leakage found",
        ("a", "teacher"): "leakage found",
        ("b", "student"): "cannot tell",
        ("b", "update"): "cannot tell",
        (ALL_SITES, "student"): "no leakage found",
        (ALL_SITES, "teacher"): "leakage found",
        (ALL_SITES, "update"): "cannot tell",
    }
    assert {v.verdict for v in site_verdicts(rows, Blind(void=["a"])) if v.site == "a"} == {"cannot tell"}


def test_many_sites_show_together_what_none_shows_alone():
    rows = [one for number in range(9) for one in both(site=f"s{number}", auc=0.515)]
    verdicts = {v.site: v.verdict for v in site_verdicts(rows)}
    assert verdicts.pop(ALL_SITES) == "leakage found" and set(verdicts.values()) == {"cannot tell"}


def test_a_verdict_is_a_row_of_text():
    verdict = SiteVerdict("a", "student", "cannot tell", "why")
    assert verdict.as_row() == {"site": "a", "target": "student", "verdict": "cannot tell", "reason": "why"}


def simulated(rng, target, site, members=400, exposed=0.0, shift=0.0, attack="rmia"):
    """Return the row of an attack on random scores; a share of members is exposed beyond doubt."""
    scores = rng.normal(size=members) + shift
    scores[: round(exposed * members)] += 20
    figures = membership_figures(
        scores, rng.normal(size=members), fprs=[0.01], bootstrap=40, seed=int(rng.integers(1 << 30))
    )
    return {
        "target": target,
        "site": site,
        "attack": attack,
        "references": "direct",
        "headline": int(attack == "rmia"),
        **figures,
    }


def audits(rng, sites, targets, **more):
    rows = [
        simulated(rng, target, f"s{site}", attack=attack, **more)
        for target in targets
        for site in range(sites)
        for attack in ("rmia", "lira-online")
    ]
    return site_verdicts([*rows, *(simulated(rng, "teacher", f"s{site}", shift=1.0) for site in range(sites))])


def test_null_audits_of_many_sites_seldom_accuse_anybody():
    rng, targets = np.random.default_rng(0), [f"t{number}" for number in range(3)]
    accused = 0
    for _ in range(12):
        found = audits(rng, 3, targets)
        accused += any(v.verdict == "leakage found" for v in found if v.target != "teacher")
    # At 5 % each, four and more of twelve have a probability of 0.2 %.
    assert accused < 4


def test_a_model_with_a_few_fully_exposed_members_does_not_pass_and_an_honest_one_mostly_does():
    rng = np.random.default_rng(1)
    passed = {
        exposed: sum(
            audits(rng, 1, ["model"], members=1000, exposed=exposed)[0].verdict == "no leakage found" for _ in range(12)
        )
        for exposed in (0.0, 0.03)
    }
    assert passed[0.03] == 0 and passed[0.0] >= 8
