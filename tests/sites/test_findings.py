"""Without exact counts an audit names members and non-members as rounded counts only, at both ends."""

import pytest

from fedkr import wire
from fedkr.audit.document import AuditQuestion
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from sites.audit import SiteAudit
from sites.coarse import coarse_p_value
from sites.findings import public_findings
from sites.handlers import HANDLERS
from sites.policy import PolicyError
from sites.workspace import open_site

COPIES = {"released": 61, "suspects": 3, "verbatim": 1, "holdout": 14, "holdout_near": 2}
COPIES |= {"members": 52, "members_found": 7, "nonmembers": 14, "nonmembers_found": 3}


@pytest.fixture
def audited(hospital, study):
    """Return a function that audits a model, or the release, at a hospital with a policy; and its question."""

    def audit(target="student", **policy):
        study.audit.fprs = [0.1, 0.02]
        site = open_site({"site-file": str(hospital(**policy))}, study)
        weights = (
            build_classifier(study.student, Shape(1, 8, 3), "server").state_dict() if target == "student" else None
        )
        content = HANDLERS[wire.AUDIT](site, wire.Request(study.to_json(), {"target": target}, weights))
        question = AuditQuestion(target, target, 3, site.study.audit)
        return site, wire.read_document(content, wire.FINDINGS), question

    return audit


@pytest.mark.parametrize("target", ["student", "release"])
def test_members_and_non_members_leave_as_rounded_counts_that_both_ends_check(audited, target):
    site, document, question = audited(target)
    question.check(site.name, document, exact=False)
    for row in (*document["audit"], *document["copies"]):
        assert {row["members"] % 50, row["nonmembers"] % 50} == {0}
    exact_site, exact, question = audited(target, exact_counts=True)
    assert exact["audit"][0]["members"] == len(SiteAudit(exact_site).challenge.members)
    question.check(site.name, exact)
    with pytest.raises(UserError, match="is an exact count, which does not leave this site"):
        question.check(site.name, exact, exact=False)


def test_an_audits_rates_are_multiples_of_the_step_and_none_is_a_fraction_over_its_counts(audited):
    site, document, _ = audited()
    step = 5 / min(len(side) for side in SiteAudit(site).challenge.sides)
    for row in document["audit"]:
        rates = [value for value in row.values() if isinstance(value, float)] + [r for p in row["roc"] for r in p]
        assert rates
        for rate in rates:
            multiple = rate / 0.02
            assert rate == 1 or abs(multiple - round(multiple)) < 1e-6
            assert rate in (0, 1) or rate >= step - 1e-6


def test_a_rate_that_the_rounded_count_cannot_show_leaves_as_unresolved(audited):
    site, document, question = audited()
    (row, *_) = document["audit"]
    assert row["nonmembers"] == 50 and len(site.data.holdout) < 50
    # 1 in 50 of 14 non-members was not resolved; of the 50 that they are called it is.
    assert row["tpr_at_fpr_0.02"] is not None and "unresolved_tpr_at_fpr_0.02" not in row
    question.check(site.name, document, exact=False)


def test_where_figures_leave_coarsely_no_attack_is_fitted_to_single_images(audited, study):
    study.audit.attacks = ["loss", "modified-entropy", "quantile"]
    site, document, question = audited()
    assert [row["attack"] for row in document["audit"]] == ["loss", "modified-entropy"]
    question.check(site.name, document, exact=False)
    site, document, question = audited(rate_step=0.0, exact_counts=True)
    assert [row["attack"] for row in document["audit"]] == study.audit.attacks
    question.check(site.name, document)


def test_the_test_of_a_release_leaves_as_a_p_value_that_is_rounded_up(audited):
    site, document, _ = audited("release")
    (row,) = document["two_sample"]
    assert row == {"site": site.name, "p_value": coarse_p_value(row["p_value"])}
    document["two_sample"] = [row | {"p_value": 0.0123}]
    assert public_findings(site, document, SiteAudit(site).challenge)["two_sample"] == [row | {"p_value": 0.02}]


def test_the_parts_of_a_copy_check_are_rounded_and_no_copy_of_every_byte_is_rounded_away(audited):
    site, document, _ = audited("release")
    document["copies"] = [{"site": site.name} | COPIES]
    (row,) = public_findings(site, document, SiteAudit(site).challenge)["copies"]
    assert (row["members"], row["nonmembers"], row["holdout"], row["released"]) == (50, 50, 50, 61)
    assert (row["members_found"], row["nonmembers_found"], row["holdout_near"]) == (5, 5, 0)
    assert (row["suspects"], row["verbatim"]) == (5, 5)


@pytest.mark.parametrize("guesses", [0, 1, 3])
def test_coins_are_guessed_for_no_single_image_and_told_in_steps(audited, study, guesses):
    study.audit.coins, study.audit.guesses = True, guesses
    site, document, question = audited(split={"coins": True}, min_evaluated=12)
    (row,) = document["epsilon"]
    assert row["guesses"] >= 12 and row["correct"] % 5 == 0
    question.check(site.name, document, exact=False)


def test_no_server_knows_what_a_hospitals_audit_draws(audited, same_draws, monkeypatch):
    monkeypatch.setattr("sites.audit.keyed", same_draws)
    first, *_ = audited()
    secret = first.records / "secret"
    drawn = SiteAudit(first).seed
    assert drawn == SiteAudit(first).seed != first.study.seed
    secret.unlink()
    assert SiteAudit(first).seed != drawn


def test_an_audit_of_fewer_images_than_the_policy_asks_for_has_no_answer(audited):
    with pytest.raises(PolicyError, match="an audit needs 50 members and 50 non-members"):
        audited(min_evaluated=50)


@pytest.mark.parametrize(
    ("exact", "leaves"),
    [(0, 0), (0.0005, 0.0005), (0.00051, 0.001), (0.012, 0.02), (0.2, 0.2), (0.21, 0.5), (0.7, 1), (1, 1)],
)
def test_a_p_value_leaves_rounded_up_so_that_nothing_is_rejected_for_it(exact, leaves):
    assert coarse_p_value(exact) == leaves


def test_a_comparisons_p_value_leaves_rounded(hospital, study, monkeypatch):
    answers = {}
    monkeypatch.setattr(SiteAudit, "seed", 0)
    for name, policy in {"coarse": {}, "exact": {"exact_counts": True}}.items():
        site = open_site({"site-file": str(hospital(**policy))}, study)
        content = HANDLERS[wire.COMPARE](site, wire.Request(study.to_json(), {"pairs": "[]"}, None))
        answers[name] = wire.read_document(content, wire.COMPARISON)["blind"][0]["p_value"]
    assert answers["coarse"] == coarse_p_value(answers["exact"]) != answers["exact"]
