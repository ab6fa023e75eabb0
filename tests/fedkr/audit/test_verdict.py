import pytest

from fedkr.audit.verdict import Evidence, SiteVerdict, site_verdict, site_verdicts


def row(target="student", low=0.42, high=0.54, attack="rmia", references="pipeline", **more):
    figures = {"auc": (low + high) / 2, "auc_low": low, "auc_high": high}
    return {"target": target, "site": "a", "attack": attack, "references": references, "headline": 1, **figures, **more}


DETECTED = row("teacher", 0.7, 0.9, references="direct")
MISSED = row("teacher", 0.45, 0.6, references="direct")


def judge(headline, control=DETECTED, **more):
    return site_verdict(Evidence("a", more.pop("target", "student"), headline, control, **more))


def test_a_low_upper_limit_passes_where_the_teacher_is_detected():
    verdict = judge(row())
    assert verdict.verdict == "no leakage found"
    assert "0.540" in verdict.reason and "teacher is detected (rmia, direct references)" in verdict.reason
    assert judge(row(high=0.55)).verdict == "no leakage found"


def test_a_lower_limit_above_guessing_is_leakage_even_if_the_upper_one_is_low():
    assert judge(row(low=0.51, high=0.53)).verdict == "leakage found"
    assert judge(row(low=0.5, high=0.53)).verdict == "no leakage found"


def test_a_small_site_never_passes_by_being_small():
    verdict = judge(row(low=0.3, high=0.7))
    assert verdict.verdict == "cannot tell" and "0.300 to 0.700" in verdict.reason


@pytest.mark.parametrize(
    ("headline", "control", "words"),
    [
        (row(), MISSED, "does not detect"),
        (row(), None, "not tried on the site's teacher"),
        (row(), row("teacher", 0.7, 0.9, attack="loss", references="none"), "not tried on the site's teacher"),
        (row(references="direct"), DETECTED, "pipeline references"),
        (row(attack="modified-entropy", references="none"), DETECTED, "only RMIA"),
        (None, DETECTED, "no figure"),
    ],
)
def test_an_attack_without_proven_power_cannot_pass_a_model(headline, control, words):
    verdict = judge(headline, control)
    assert verdict.verdict == "cannot tell"
    assert words in verdict.reason


def test_direct_references_pass_what_was_trained_on_real_images():
    assert judge(row("fedavg", references="direct"), target="fedavg").verdict == "no leakage found"
    assert judge(row("site-student", references="direct"), target="site-student").verdict == "cannot tell"
    assert judge(row("mine", references="direct", kind="student"), target="mine").verdict == "cannot tell"
    assert judge(row("mine", kind="student"), target="mine").verdict == "no leakage found"


def test_a_rejected_blind_baseline_voids_even_a_detection():
    verdict = judge(row(low=0.8, high=0.9), void=True)
    assert verdict.verdict == "cannot tell" and "blind baseline" in verdict.reason


def test_without_a_blind_baseline_nothing_passes_and_a_detection_stands():
    assert judge(row(), untested=True).verdict == "cannot tell"
    assert "blind baseline" in judge(row(), untested=True).reason
    assert judge(row(low=0.6, high=0.7), untested=True).verdict == "leakage found"
    assert {v.verdict for v in site_verdicts([row(), DETECTED], untested_sites=["a"])} == {
        "cannot tell",
        "leakage found",
    }


def test_a_release_passes_only_with_the_student_of_its_own_images():
    own = row("release", attack="distance-features", references="none")
    assert judge(own, target="release").verdict == "cannot tell"
    quiet = row("site-student")
    assert judge(own, target="release", student=quiet).verdict == "no leakage found"
    loud = row("site-student", 0.6, 0.8)
    assert judge(own, target="release", student=loud).verdict == "leakage found"
    copies = row("release", 0.6, 0.8, attack="distance-features", references="none")
    assert judge(copies, target="release", student=quiet).verdict == "leakage found"
    direct = row("site-student", references="direct")
    assert judge(own, target="release", student=direct).verdict == "cannot tell"


def test_leakage_by_an_attack_without_references_is_qualified():
    verdict = judge(row(low=0.55, high=0.7, attack="modified-entropy", references="none"))
    assert verdict.verdict == "leakage found" and "harder" in verdict.reason


def test_every_target_at_every_site_gets_one_verdict_from_its_headline_row():
    rows = [
        row(headline=0, low=0.7, high=0.8, references="direct"),
        row(),
        DETECTED,
        row(site="b"),
        row("update", headline=0, site="b"),
        row(site="all sites"),
    ]
    verdicts = {(v.site, v.target): v.verdict for v in site_verdicts(rows)}
    assert verdicts == {
        ("a", "student"): "no leakage found",
        ("a", "teacher"): "leakage found",
        ("b", "student"): "cannot tell",
        ("b", "update"): "cannot tell",
    }
    assert {v.verdict for v in site_verdicts(rows, void_sites=["a"]) if v.site == "a"} == {"cannot tell"}


def test_a_verdict_is_a_row_of_text():
    verdict = SiteVerdict("a", "student", "cannot tell", "why")
    assert verdict.as_row() == {"site": "a", "target": "student", "verdict": "cannot tell", "reason": "why"}
